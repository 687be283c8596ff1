"""`nanosd predict`: from the profile alone, whatever space it was calibrated for."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest

from experiments.cli import app
from experiments.exits import run_app
from latency_predictors.npu.profile import NpuProfile
from latency_predictors.profile import DeviceProfile
from nas.teacher_shapes import teacher_shapes
from search_spaces.candidate import Candidate
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from tests.latency_predictors.made_up import synthetic

README_EXAMPLE = "RARA-RA-R-none-RARARA-RR-R@3"
# Its first stages have options that the preset nanosd does not have.
OPTIONS = {
    "E1": ["RARA", "RARA_w0.5"],
    "E2": ["RARA", "RA"],
    "E3": ["RARA", "R"],
    "deep": ["RR.RAR.RRR", "none"],
    "D3": ["RARARA", "RR_sep"],
    "D2": ["RARARA", "RR"],
    "D1": ["RARARA", "R@3"],
}
OTHER = "RARA_w0.5-RA-R-RR.RAR.RRR-RR_sep-RR-R@3"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    space = SearchSpace.model_validate({"name": "own", "options": OPTIONS})
    synthetic(space)[0].save(tmp_path / "profile.json")
    (tmp_path / "own.yaml").write_text(space.model_dump_json(by_alias=True))
    return tmp_path / "profile.json"


def test_a_profile_predicts_the_candidates_of_its_own_space(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = DeviceProfile.load(profile)
    own = loaded.own_space
    expected = [
        {"candidate": text, "latency_ms": pytest.approx(loaded.latency_ms(own, own.encode(Candidate.from_id(text)))[0])}
        for text in (README_EXAMPLE, OTHER)
    ]
    assert expected[0]["latency_ms"] != expected[1]["latency_ms"]
    for space in ([], ["--space", str(profile.with_name("own.yaml"))]):
        assert run_app(app, ["predict", str(profile), README_EXAMPLE, OTHER, *space, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [{name: row[name] for name in ("candidate", "latency_ms")} for row in found] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([OTHER, "--space", "nanosd"], "option 'RA' of stage E1 was not calibrated (there are RARA, RARA_w0.5)"),
        (
            [README_EXAMPLE.replace("RARARA", "RRR")],
            "option 'RRR' of stage D3 is not in search space 'own'; legal are RARARA",
        ),
        (["R-R"], "candidate 'R-R' has 2 options; legal is one per stage E1-E2-E3-deep-D3-D2-D1"),
        (
            [README_EXAMPLE, "--space", "nanosd-joint"],
            "calibrated stages are E1 E2 E3 deep D3 D2 D1, search space 'nanosd-joint' has",
        ),
    ],
)
def test_what_it_cannot_predict(
    profile: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["predict", str(profile), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert run_app(app, ["predict", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_files_samples_and_whole_spaces(
    profile: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = DeviceProfile.load(profile)
    space = loaded.own_space
    every = ran(capsys, profile, "--all")
    assert [row["candidate"] for row in every] == [space.decode(row).id for row in space.enumerate()]
    wanted = loaded.predict(space, space.enumerate())
    assert list(every[0]) == ["candidate", "latency_ms", "low_ms", "high_ms", "extrapolates"]
    for name in ("latency_ms", "low_ms", "high_ms"):
        assert [row[name] for row in every] == pytest.approx(getattr(wanted, name))
    assert [row["extrapolates"] for row in every] == wanted.extrapolates.tolist()
    (tmp_path / "ids.txt").write_text("\n".join(row["candidate"] for row in every[:9]))
    assert ran(capsys, profile, "--from-file", tmp_path / "ids.txt") == every[:9]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "ids.txt").read_bytes())))
    assert ran(capsys, profile, "-") == every[:9]
    one, same, other = (ran(capsys, profile, "--sample", 20, "--seed", seed) for seed in (1, 1, 2))
    assert one == same != other and len(one) == 20
    for name, read in (("o.csv", pandas.read_csv), ("o.parquet", pandas.read_parquet)):
        facts = ran(capsys, profile, "--all", "--out", tmp_path / "new" / name)
        assert facts == {"out": str(tmp_path / "new" / name), "num_candidates": len(every)}
        assert read(tmp_path / "new" / name).to_dict("records") == [pytest.approx(row) for row in every]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["o.csv", "o.parquet"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no candidates given; give candidate ids such as"),
        (["--all", "--sample", "5"], "--sample and --all given"),
        (["--all", "--out", "x.txt"], "--out x.txt: legal are names that end in .parquet or .csv"),
        (["--sample", "1001"], "1,001 candidates are too many to print; give --out"),
        (["--from-file", "nowhere.txt"], "--from-file nowhere.txt: No such file"),
        (["--all", "--teacher", "toy"], "is a device profile and knows its networks"),
    ],
)
def test_ways_that_do_not_go_together(
    profile: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["predict", str(profile), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_device_profile_predicts_without_torch(profile: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from experiments.cli import app; from experiments.exits import run_app; "
        "assert run_app(app, sys.argv[1:]) == 0; assert 'torch' not in sys.modules"
    )
    out = tmp_path / "o.parquet"
    subprocess.run([sys.executable, "-c", code, "predict", profile, "--sample", "5000", "--out", out], check=True)
    assert len(pandas.read_parquet(out)) == 5000


def test_an_npu_profile_needs_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["predict", "sm8750-w8a16", README_EXAMPLE]) == 2
    assert "add --teacher" in capsys.readouterr().err


def test_standard_input_that_is_closed(
    profile: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = io.TextIOWrapper(io.BytesIO(b""))
    closed.close()
    with open(tmp_path / "written", "w") as written:
        for stdin in (None, closed, written):
            monkeypatch.setattr("sys.stdin", stdin)
            assert run_app(app, ["predict", str(profile), "-"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "standard input is closed; pipe ids into it, or give --from-file FILE" in line
    assert run_app(app, ["predict", str(profile), OTHER, "-"]) == 2
    assert "give it alone" in capsys.readouterr().err


def test_standard_input_closed_by_the_shell(profile: Path) -> None:
    command = [sys.executable, "-m", "experiments.cli", "predict", str(profile), "-"]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "standard input is closed" in done.stderr


def test_repeats_of_a_sample_are_told(profile: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    num = DeviceProfile.load(profile).own_space.num_candidates
    out = tmp_path / "o.csv"
    for size in (2, 500):
        assert run_app(app, ["predict", str(profile), "--sample", str(size), "--out", str(out), "--json"]) == 0
        said = capsys.readouterr()
        distinct = pandas.read_csv(out)["candidate"].nunique()
        assert json.loads(said.out) == {"out": str(out), "num_candidates": size, "num_distinct": distinct}
        told = f"{distinct} of the {size} candidates are distinct; --all gives each of the {num} once"
        assert (told in said.err) == (distinct < size) == (size == 500)


@pytest.mark.slow
def test_an_npu_profile_knows_sd15_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = ran(capsys, "sm8750-w8a16", README_EXAMPLE, "--teacher", "sd15")
    unet = teacher_shapes("sd15").unet
    table = NpuProfile.load("sm8750-w8a16").tabulate(unet, load_space("nanosd"), 64, 77)
    matrix = table.space.encode(Candidate.from_id(README_EXAMPLE, table.space.stages))[None]
    assert row["latency_ms"] == pytest.approx(table.latency_ms(matrix)[0])
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964, "Stable Diffusion 1.5's"


@pytest.mark.slow
def test_an_npu_profile_predicts_a_teachers_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = ran(capsys, "sm8750-w8a16", README_EXAMPLE, "--teacher", "toy")
    assert row["low_ms"] < row["latency_ms"] < row["high_ms"]
    assert row["extrapolates"], "the toy's latents are smaller than those that the errors were found at"
