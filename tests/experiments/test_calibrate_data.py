"""What `nanosd calibrate` says of data that cannot be, or that contradict one another."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.calibrate_command import WAITING
from latency_predictors.profile import DeviceProfile
from nas.calibration.target import Target
from tests.experiments.made_up_device import FACTS, candidates, fill, parts, run, truth_ms, write_csv

pytestmark = pytest.mark.usefixtures("counted")

SHEET = ["--spec", "macs_per_s=1e10", "--spec", "memory_bytes_per_s=1e18", "--spec", "operator_s=2e-5"]


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        (["macs_per_s=1e10"], ["memory_bytes_per_s is missing", "bytes a second", "memory_bytes_per_s=X"]),
        (["macs_per_s=45", "memory_bytes_per_s=6e10"], ["macs_per_s is '45'", "45 TOPS are 22.5e12"]),
        (["macs_per_s=1e10", "memory_bytes_per_s=60"], ["'60'", "from 1e+06 to 1e+18", "60 GB/s are 60e9"]),
        (["macs_per_s=1e-300", "memory_bytes_per_s=6e10"], ["macs_per_s is '1e-300'"]),
        (["macs_per_s=1e300", "memory_bytes_per_s=6e10"], ["macs_per_s is '1e300'"]),
        (["macs_per_s=fast", "memory_bytes_per_s=6e10"], ["'fast'", "a number"]),
        (["macs_per_s=nan", "memory_bytes_per_s=6e10"], ["'nan'"]),
        (["macs_per_s=1e10", "memory_bytes_per_s=6e10", "operator_s=5"], ["operator_s is '5'", "5 us are 5e-6"]),
        (["tops=45"], ["tops is no rate; legal are macs_per_s"]),
    ],
)
def test_rates_that_no_device_has_are_one_line(
    rates: list[str], words: list[str], folder: Path, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument for rate in rates for argument in ("--spec", rate)]
    assert run(*given, "--space", space_file, "--out", "p.json", *FACTS) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nanosd: --spec: ") and [word for word in words if word not in line] == []
    assert list(folder.iterdir()) == []


def test_an_anchor_narrows_a_spec_sheet_unless_it_contradicts_it(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--space", space_file, "--out", "p.json", *FACTS]
    matrix = target.space.enumerate()

    def widths(*anchors: float) -> np.ndarray:
        assert run(*SHEET, *(text for ms in anchors for text in ("--anchor", ms)), *common) == 0
        found = DeviceProfile.load(folder / "p.json").predict(target.space, matrix)
        return np.log(found.high_ms / found.low_ms)

    own = truth_ms(target, target.largest)  # what the sheet says of it
    alone = widths()
    assert alone == pytest.approx(2 * np.log(3))
    for ratio in (1.0, 0.4, 2.9):
        assert (widths(ratio * own) <= alone + 1e-9).all(), ratio
        assert "contradicts" not in capsys.readouterr().err
    # The anchor's own network is known far better than by the sheet.
    largest = int(np.argmax(DeviceProfile.load(folder / "p.json").latency_ms(target.space, matrix)))
    assert widths(own)[largest] < 0.5 * alone[largest]
    for ratio in (0.1, 20.0):
        widths(ratio * own)
        (line,) = (line for line in capsys.readouterr().err.splitlines() if "contradicts" in line)
        assert f"takes {ratio * own:.4g} ms, by the sheet {own:.4g} ms" in line and "(its interval is one of 3)" in line


def test_a_row_that_is_no_number_is_asked_for_again_with_its_reason(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--budget", 6, "--batch", 6, "--space", space_file, "--out", "p.json", *FACTS]
    file = folder / "p.to_measure.csv"
    assert run(*call) == WAITING
    fill(file, lambda name: truth_ms(target, name), at_most=4)
    rows = list(csv.reader(file.open(newline="")))
    rows[2][1] = "abc"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    capsys.readouterr()
    assert run(*call, "--from", file, "--json") == WAITING
    printed = capsys.readouterr()
    assert "p.to_measure.csv, row 3: latency_ms is 'abc', not a number" in printed.err
    asked = json.loads(printed.out)["to_measure"]
    assert rows[2][0] in asked and len(asked) == 3
    assert DeviceProfile.load(folder / "p.json").num_networks == 3
    # Where nothing else is filled in, the reason is that of the row, not of the empty ones before it.
    for row in rows[1:]:
        row[1] = ""
    rows[4][1] = "12 ms"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    (folder / "p.json").unlink()
    assert run(*call, "--from", file) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "row 5: latency_ms is '12 ms', not a number" in line


@pytest.mark.parametrize(
    ("latency", "words"),
    [
        (lambda truth: 1000 / truth, "of whole U-Nets the larger is the faster one"),
        (lambda truth: 5.0, "all 12 whole U-Nets take 5 ms"),
    ],
    ids=["falling", "alike"],
)
def test_latencies_that_cannot_be_are_remarked(
    latency: object, words: str, folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(latency)
    names = candidates(target, 12)
    rows = [f"{name},{latency(truth_ms(target, name))!r}" for name in names]
    (folder / "m.csv").write_text("\n".join(["subject,latency_ms", *rows]))
    assert run("--from", "m.csv", "--space", space_file, "--out", "p.json", *FACTS) == 0
    shown = capsys.readouterr()
    (line,) = (line for line in shown.err.splitlines() if "warning" in line)
    assert words in line and "are ties" not in (shown.out if "alike" in words else "")
    assert run("--evaluate", "p.json") == 0
    assert words in capsys.readouterr().err and words in (folder / "p.html").read_text()


def test_parts_that_are_not_those_of_the_networks_are_remarked(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(folder / "nets.csv", target, candidates(target, 6))
    for factor, is_said in ((0.3, True), (1.5, False), (4.0, True)):
        rows = [f"{name},{factor * truth_ms(target, name)!r}" for name in parts(target)]
        (folder / "parts.csv").write_text("\n".join(["subject,latency_ms", *rows]))
        call = ["--from", "nets.csv", "parts.csv", "--space", space_file, "--out", "p.json", *FACTS]
        assert run(*call) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert len(said) == is_said and all("the parts of" in line for line in said), factor


def test_one_measured_network_is_not_none(
    folder: Path, target: Target, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--space", space_file, *FACTS]
    assert run("--anchor", 9, "--out", "p.json", *common) == 0
    out = capsys.readouterr().out
    assert "one whole U-Net was measured" in out and "no whole U-Net was measured" not in out
    assert run("--evaluate", "p.json") == 0
    page = (folder / "p.html").read_text()
    assert "One whole U-Net was measured" in page and "o whole U-Net was measured" not in page
    assert run("--anchor", 9, "--budget", 1, "--out", "q.json", *common) == 0
    assert "budget spent: 1 of 1 measured; one whole U-Net is measured" in capsys.readouterr().out
    assert run(*SHEET, "--out", "r.json", *common) == 0
    assert "no whole U-Net was measured" in capsys.readouterr().out
