"""`nanosd calibrate` beyond measuring everything here: imports, anchors, spec sheets, budgets, verdicts.

The device is made up: its latency is a sum of kernel sums at known costs, so that the truth of every candidate is
known.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.calibrate_command import WAITING
from latency_predictors.profile import DeviceProfile
from nas.calibration.target import Target
from search_spaces.candidate import Candidate
from tests.experiments.made_up_device import FACTS, candidates, fill, parts, run, truth_ms, write_csv
from tests.latency_predictors.android.phones import SERIAL, FakePhone


def test_blocks_and_networks_of_a_file_become_a_profile(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nets = candidates(target, 24)
    blocks = write_csv(folder / "blocks.csv", target, parts(target), device="Made up", runtime="none", precision="fp32")
    whole = write_csv(folder / "whole.csv", target, nets[:12], device="Made up", runtime="none", precision="fp32")
    assert run("--from", blocks, whole, "--space", space_file, "--out", "p.json", "--threads", 4, "--json") == 0
    printed = capsys.readouterr()
    shown = json.loads(printed.out)
    assert (shown["num_parts"], shown["num_networks"], shown["information"]) == (len(parts(target)), 12, "blocks")
    assert shown["threads"] == 4 and shown["verdict"]["level"] == "fit" and shown["verdict"]["rule"]
    assert "blocks.csv (csv): " in printed.err and "whole.csv (csv): 12 measurements" in printed.err
    # The made-up device is exactly additive, so that unseen networks are exact.
    profile = DeviceProfile.load(folder / "p.json")
    unseen = np.stack([target.space.encode(Candidate.from_id(n, target.space.stages)) for n in nets[12:]])
    assert profile.latency_ms(target.space, unseen) == pytest.approx([truth_ms(target, n) for n in nets[12:]], rel=1e-6)
    assert profile.options["E1"]["RARA"].timing is not None

    assert run("--evaluate", "p.json", "--out", "e.html") == 0
    assert "verdict: fit for search" in capsys.readouterr().out
    page = (folder / "e.html").read_text()
    assert page.count("<section") == 4 and "Verdict: fit for search" in page
    assert 'id="figure-parity"' in page and "every bar is zero" in page


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize(
    ("rows", "arguments", "words"),
    [
        ("E1/RARARA,1,fp32", [], ["row 2", "E1 is not in search space 'few'", "E1/RARA", "--skip-unknown"]),
        ("E1/R,1,fp32\nE2/R,1,w8a8", [], ["float32 (1 rows)", "w8a8 (1 rows)", "--precision"]),
        ("E1/R,1,fp32\nE1_R,2,fp32", [], ["row 3", "E1/R is measured in", "row 2"]),
        ("E1/R,-1,fp32", [], ["row 2", "greater than zero"]),
        ("E1/R,1,fp32", ["--precision", "int3"], ["--precision int3"]),
        ("E1/R,1,fp32\nE2/R,1,fp32", ["--subject", "base"], ["--subject base", "2 measurements"]),
        ("E1/R,1,fp32", ["--format", "xml"], ["xml", "onnxruntime-profile"]),
        ("E1/R,1,fp32", ["--anchor", "fast"], ["--anchor fast", "SUBJECT=MS"]),
        ("E1/R,1,fp32", ["--anchor", "E1/R=3"], ["no whole U-Net"]),
        ("E1/R,1,fp32", ["--source", "nothing.json"], ["nothing.json"]),
    ],
    ids=["option", "precisions", "twice", "negative", "precision", "subject", "format", "anchor", "part", "source"],
)
def test_what_cannot_be_imported_is_one_line(
    rows: str,
    arguments: list[str],
    words: list[str],
    folder: Path,
    space_file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = folder / "m.csv"
    file.write_text(f"subject,latency_ms,precision\n{rows}\n")
    given = ["--from", file, "--space", space_file, "--device", "d", "--runtime", "r", "--out", "p.json"]
    assert run(*given, *arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert [word for word in words if word not in last] == []
    assert not (folder / "p.json").exists()


@pytest.mark.usefixtures("counted")
def test_a_device_that_nobody_names_is_asked_for(
    folder: Path, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for missing in ("--device", "--runtime", "--precision"):
        at = FACTS.index(missing)
        assert run("--anchor", 3, "--space", space_file, "--out", "p.json", *FACTS[:at], *FACTS[at + 2 :]) == 2
        assert f"give {missing}" in capsys.readouterr().err


def test_options_that_do_not_go_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["m.csv", "--out", "p.json"], "m.csv: what is this file? write --from m.csv"),
        (["--out", "p.json", "--anchor", 3, "--dry-run"], "--dry-run"),
        (["--out", folder, "--anchor", 3], "is a folder"),
        (["--evaluate", "p.json", "--from", "m.csv"], "m.csv: --evaluate"),
        (["--evaluate", "p.json"], "p.json"),
    ):
        assert run(*arguments) == 2
        assert words in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("counted")
def test_an_anchor_and_a_spec_sheet_are_enough(folder: Path, target: Target, space_file: Path) -> None:
    common = ["--space", space_file, *FACTS]
    (folder / "spec.yaml").write_text("macs_per_s: 1.0e+10\nmemory_bytes_per_s: 1.0e+18\noperator_s: 2.0e-5\n")
    assert run("--spec", "spec.yaml", "--out", "spec.json", *common) == 0
    sheet = DeviceProfile.load(folder / "spec.json")
    names = candidates(target, 8)
    matrix = np.stack([target.space.encode(Candidate.from_id(n, target.space.stages)) for n in names])
    true = np.array([truth_ms(target, n) for n in names])
    assert sheet.information == "spec_sheet"
    assert sheet.latency_ms(target.space, matrix) == pytest.approx(true, rel=1e-6)  # these are the device's own rates

    # A device three times as slow: one anchor shows it.
    anchor = 3 * truth_ms(target, target.largest)
    assert run("--spec", "spec.yaml", "--anchor", anchor, "--out", "both.json", *common) == 0
    scaled = DeviceProfile.load(folder / "both.json")
    assert (scaled.information, scaled.fitted[0].candidate) == ("anchor", target.largest)
    assert scaled.latency_ms(target.space, matrix) == pytest.approx(3 * true, rel=0.05)
    assert run("--anchor", f"{names[0]}=3", "--out", "one.json", *common) == 0
    assert DeviceProfile.load(folder / "one.json").fitted[0].candidate == names[0]
    assert run("--spec", "macs_per_s=0", "--spec", "spec.yaml", "--out", "late.json", *common) == 0  # later ones count
    assert run("--spec", "macs=1", "--out", "x.json", *common) == 2


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("measure", ["candidates", "both"])
def test_a_device_that_is_not_at_hand_is_measured_by_csv(
    measure: str, folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--budget", 20, "--batch", 9, "--target-error", 1, "--measure", measure, "--space", space_file, *FACTS]
    call += ["--out", "p.json"]
    file = folder / "p.to_measure.csv"
    assert run(*call) == WAITING
    assert "fill in latency_ms and run again with --from p.to_measure.csv" in capsys.readouterr().out
    first = file.read_text()
    assert len(first.splitlines()) == 10 and not (folder / "p.json").exists()
    assert run(*call) == WAITING and file.read_text() == first, "nothing new is asked for before the old is answered"

    assert fill(file, lambda name: truth_ms(target, name), at_most=5) == 5
    capsys.readouterr()
    assert run(*call) == 2 and "add --from p.to_measure.csv" in capsys.readouterr().err
    assert run(*call, "--from", file) == WAITING
    answered = DeviceProfile.load(folder / "p.json")
    assert answered.num_parts + answered.num_networks == 5
    assert len(file.read_text().splitlines()) == 15, "five answered, four old and five new to measure"

    code, rounds = WAITING, 0
    while code == WAITING and rounds < 5:
        fill(file, lambda name: truth_ms(target, name))
        code, rounds = run(*call, "--from", file), rounds + 1
    ended = capsys.readouterr().out.splitlines()[-1]
    assert code == 0 and ended.startswith(("target met: ", "budget spent: 20 of 20"))
    profile = DeviceProfile.load(folder / "p.json")
    subjects = [row["subject"] for row in csv.DictReader(file.open())]
    assert len(subjects) == len(set(subjects)) == profile.num_parts + profile.num_networks <= 20
    assert measure == "both" or profile.num_parts == 0
    matrix = target.space.enumerate()
    true = [truth_ms(target, target.space.decode(row).id) for row in matrix]
    error = np.abs(profile.latency_ms(target.space, matrix) / true - 1)
    assert np.median(error) < 0.02


@pytest.mark.usefixtures("counted")
def test_another_device_at_the_same_place_is_refused(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--space", space_file, "--out", "p.json"]
    assert run("--anchor", 3, *common, *FACTS) == 0
    assert run("--budget", 5, *common, "--device", "Other", *FACTS[2:]) == 2
    assert "'Other'" in capsys.readouterr().err and not (folder / "p.to_measure.csv").exists()


@pytest.mark.usefixtures("counted")
def test_profiles_of_one_folder_ask_in_files_of_their_own(folder: Path, target: Target, space_file: Path) -> None:
    common = ["--budget", 2, "--space", space_file, *FACTS[2:]]
    assert run(*common, "--device", "One", "--out", "one.json") == WAITING
    fill(folder / "one.to_measure.csv", lambda name: truth_ms(target, name))
    assert run(*common, "--device", "Two", "--out", "two.json") == WAITING
    rows = list(csv.DictReader((folder / "two.to_measure.csv").open()))
    assert [(row["device"], row["latency_ms"]) for row in rows] == [("Two", "")] * 2


@pytest.mark.usefixtures("counted")
def test_graphs_to_measure_are_exported(folder: Path, space_file: Path) -> None:
    import onnxruntime

    call = ["--budget", 2, "--measure", "blocks", "--space", space_file, "--out", "p.json", *FACTS, "--export", "onnx"]
    assert run(*call) == WAITING
    notes = [row["note"] for row in csv.DictReader((folder / "p.to_measure.csv").open())]
    assert len(notes) == 2
    for note in notes:
        onnxruntime.InferenceSession(folder / note, providers=["CPUExecutionProvider"])


def test_evaluating_an_npu_profile_says_what_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--evaluate", "sm8750-w8a16", "--out", "npu.html", "--json") == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["verdict"]["level"] == "unjudged" and shown["page"] == "npu.html"
    page = (folder / "npu.html").read_text()
    assert 'id="figure-npu"' in page and "no candidate was measured" in page


@pytest.mark.usefixtures("counted")
def test_what_a_profile_knows_stays_when_more_is_measured_here(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nets = candidates(target, 3)
    file = write_csv(folder / "m.csv", target, nets, runtime="onnxruntime-cpu", precision="fp32", threads="1")
    common = ["--device", "local", "--space", space_file, "--out", "p.json"]
    assert run("--from", file, *common) == 0
    # A calibration that measured everything left its journal here; it is of other graphs.
    (folder / "p.json.work").mkdir()
    (folder / "p.json.work" / "measurements.jsonl").write_text('{"context": {"teacher_key": "t"}}\n')
    here = [*common, "--measure", "blocks", "--set", "calibration.max_seconds=0.2"]
    assert run(*here, "--budget", 3) == 0
    assert "budget spent: 3 of 3 measured" in capsys.readouterr().out
    runner = ["--runner", "onnxruntime-cpu", "--option", "threads=1"]
    assert run(*here, *runner, "--budget", 4) == 0
    profile = DeviceProfile.load(folder / "p.json")
    assert {n: t.latency_ms for n, t in profile.training.networks.items()} == {n: truth_ms(target, n) for n in nets}
    assert profile.num_parts == 1


@pytest.mark.usefixtures("counted")
def test_a_phone_on_a_cable_is_measured_directly(folder: Path, space_file: Path) -> None:
    options = {"serial": SERIAL, "adb": FakePhone(folder / "phone").adb, "poll_s": 0.01}
    call = ["--runner", "adb", "--budget", 1, "--measure", "blocks", "--space", space_file, "--out", "p.json"]
    for key, value in options.items():
        call += ["--option", f"{key}={value}"]
    assert run(*call, "--threads", 2, "--set", "calibration.max_seconds=0.2") == 0
    profile = DeviceProfile.load(folder / "p.json")
    assert (profile.runtime, profile.threads, profile.num_parts) == ("onnxruntime-cpu", 2, 1)
    assert "Phone 5" in profile.device


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runner", "adb"], "--runner adb: measures what --budget chooses"),
        (["--runner", "adb", "--budget", 3, "--device", "Pixel"], "--device Pixel would not be measured"),
        (["--option", "serial=1", "--budget", 3], "of which runner?"),
        (["--runner", "odb", "--budget", 3], "runner 'odb' is not known"),
        (["--runner", "adb", "--budget", 3, "--option", "speed=1"], "option 'speed' is not known"),
        (["--device", "local", "--budget", 3, "--option", "spinning"], "not KEY=VALUE"),
    ],
    ids=["budget", "device", "nobody", "name", "option", "text"],
)
@pytest.mark.usefixtures("counted")
def test_runners_that_cannot_measure_are_one_line(
    arguments: list[object], words: str, folder: Path, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, "--space", space_file, "--out", "p.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and list(folder.iterdir()) == []
