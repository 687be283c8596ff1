"""What `nanosd calibrate` refuses before it begins: options without effect, results over inputs, two at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer

from experiments.calibrate_options import GOES_WITH
from experiments.cli import app
from latency_predictors.profile import DeviceProfile
from nas.calibration.target import Target
from nas.calibration.work import work_folder
from nas.folder_lock import folder_lock
from tests.experiments.made_up_device import FACTS, candidates, run, write_csv

DEVICE = ["--device", "Made up"]
BUDGET = ["--budget", 3]


def test_every_parameter_of_the_command_is_in_the_table() -> None:
    command = typer.main.get_command(app).commands["calibrate"]  # type: ignore[attr-defined]
    assert {parameter.name for parameter in command.params} - {"help"} == set(GOES_WITH)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--latent-size", 32], "--latent-size 32: has no effect where everything is measured here; it goes with"),
        (["--num-tokens", 5], "--num-tokens 5"),
        (["--runtime", "qnn"], "--runtime qnn"),
        (["--target-error", 3], "--target-error 3.0: has no effect where everything is measured here; it goes with"),
        (["--batch", 10], "--batch 10"),
        (["--measure", "candidates"], "--measure candidates"),
        (["--export", "onnx"], "--export onnx"),
        (["--subject", "base"], "--subject base"),
        (["--skip-unknown"], "--skip-unknown: has no effect where everything is measured here; it goes with --from"),
        (["--toolchain", "t"], "--toolchain t"),
        (["--format", "csv"], "--format csv"),
        (["--device", "local", "--format", "csv"], "--format csv"),
        ([*FACTS, "--anchor", 3, "--batch", 2], "--batch 2: has no effect in this call; it goes with --budget"),
        ([*FACTS, "--anchor", 3, "--export", "onnx"], "--budget with a device that is not at hand"),
        ([*FACTS, "--anchor", 3, "--skip-unknown"], "it goes with --from"),
        ([*FACTS, "--anchor", 3, "--dry-run"], "--dry-run: has no effect"),
        ([*FACTS, "--anchor", 3, "--target-error", 2], "--target-error"),
        ([*BUDGET, "--device", "local", "--export", "onnx"], "--export onnx"),
        ([*BUDGET, "--device", "local", "--subject", "base"], "--subject base"),
        ([*BUDGET, "--runner", "onnxruntime-cpu", "--runtime", "qnn"], "--runner onnxruntime-cpu says"),
        ([*BUDGET, *DEVICE, "--skip-unknown"], "--skip-unknown"),
    ],
)
def test_an_option_without_effect_is_refused_in_one_line(
    arguments: list[object], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--out", "p.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and list(folder.iterdir()) == []


@pytest.mark.parametrize("name", sorted(set(GOES_WITH) - {"out", "json", "evaluate", "more", "runner", "option"}))
def test_evaluating_takes_no_option_of_making(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = typer.main.get_command(app).commands["calibrate"]  # type: ignore[attr-defined]
    (parameter,) = (each for each in command.params if each.name == name)
    values = {"measure": ["blocks"], "dry_run": [], "skip_unknown": []}
    assert run("--evaluate", "p.json", parameter.opts[0], *values.get(name, ["3"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nanosd: {parameter.opts[0]}") and "goes with --out and --json only" in line
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("counted")
def test_nothing_that_is_read_is_written_over(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--space", space_file, *FACTS]
    assert run("--anchor", 3, "--out", "p.json", *common) == 0
    write_csv(folder / "m.csv", target, candidates(target, 2))
    write_csv(folder / "n.csv", target, candidates(target, 3, seed=1))
    (folder / "spec.yaml").write_text("macs_per_s: 1.0e+10\nmemory_bytes_per_s: 1.0e+10\n")
    (folder / "recipe.yaml").write_text("seed: 1\n")
    (folder / "few.yaml").write_text(space_file.read_text())
    os.symlink("m.csv", "link.csv")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for arguments, option in (
        (["--evaluate", "p.json", "--out", "p.json"], "--evaluate p.json"),
        (["--evaluate", "p.json", "--out", folder / "p.json"], "--evaluate p.json"),
        (["--from", "m.csv", "--out", "m.csv", *common], "--from m.csv"),
        (["--from", "m.csv", "--out", "link.csv", *common], "--from m.csv"),
        (["--from", "m.csv", "n.csv", "--out", "./n.csv", *common], "--from n.csv"),
        (["--source", "p.json", "--anchor", 3, "--out", "p.json", *common], "--source p.json"),
        (["--spec", "spec.yaml", "--out", "spec.yaml", *common], "--spec spec.yaml"),
        (["--config", "recipe.yaml", "--anchor", 3, "--out", "recipe.yaml", *common], "--config recipe.yaml"),
        (["--config", "recipe.yaml", "--out", "recipe.yaml"], "--config recipe.yaml"),
        (["--space", "few.yaml", "--anchor", 3, "--out", "few.yaml", *FACTS], "--space few.yaml"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2, arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert f"is what {option} reads, and would be overwritten" in line
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.usefixtures("counted")
def test_the_page_of_an_evaluation_goes_beside_the_profile(
    folder: Path, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "profiles").mkdir()
    profile = folder / "profiles" / "p.json"
    assert run("--anchor", 3, "--out", profile, "--space", space_file, *FACTS) == 0
    capsys.readouterr()
    assert run("--evaluate", profile) == 0
    assert f"page: {profile.with_suffix('.html')}" in capsys.readouterr().out
    assert [path.name for path in folder.iterdir()] == ["profiles"]
    assert sorted(path.name for path in profile.parent.iterdir()) == ["p.html", "p.json"]
    profile.rename(folder / "p.html")  # the page would be the profile itself
    assert run("--evaluate", "p.html") == 2
    assert "p.html: is what --evaluate p.html reads" in capsys.readouterr().err
    DeviceProfile.load(folder / "p.html")


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "p.json"],
        ["--out", "p.json", "--device", "local", *BUDGET],
        ["--out", "p.json", *BUDGET, *FACTS],
        ["--out", "p.json", "--anchor", 3, *FACTS],
    ],
    ids=["everything", "chosen", "asked for", "given"],
)
def test_one_process_at_a_time_makes_a_profile(
    arguments: list[object], folder: Path, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = work_folder(folder / "p.json")
    work.mkdir()
    with folder_lock(work, "held by the test"):
        assert run(*arguments, "--space", space_file) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "calibration in p.json.work: another nanosd process is working in it" in line
    assert not (folder / "p.json").exists() and not (folder / "p.to_measure.csv").exists()


@pytest.mark.usefixtures("counted")
def test_anchors_that_contradict_each_other_are_refused_or_remarked(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--space", space_file, "--out", "p.json", *FACTS]
    assert run("--anchor", 9, "--anchor", "largest=8", *common) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--anchor largest=8" in line and "takes 9 ms by --anchor 9; keep one" in line
    name = candidates(target, 1)[0]
    write_csv(folder / "m.csv", target, [name])
    assert run("--from", "m.csv", "--anchor", f"{name}=9999", *common) == 2
    assert "by m.csv, row 2; keep one" in capsys.readouterr().err and not (folder / "p.json").exists()
    assert run("--anchor", 9, "--anchor", "largest=9.0", *common) == 0  # said twice is no contradiction
    assert DeviceProfile.load(folder / "p.json").num_networks == 1
    capsys.readouterr()
    assert run("--anchor", "smallest=9", "--anchor", "largest=1", *common) == 0
    assert "warning: in 1 of 1 pairs of whole U-Nets the larger is the faster one" in capsys.readouterr().err
    assert run("--anchor", "smallest=1", "--anchor", "largest=9", *common, "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["warnings"] == [] and "warning" not in shown.err
