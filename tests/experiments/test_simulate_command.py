"""`nanosd simulate`: tables, JSON, page, errors."""

import json
from pathlib import Path

import pytest

from experiments.cli import app
from experiments.exits import run_app


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [f"{a}{b},{90 - 5 * a - 7 * b - a * b},{1 + a + 2 * b},{60 + 30 * b}" for a in range(8) for b in range(6)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["arch,error,params,train_s", *lines]))
    return path


OPTIONS = ["--minimize", "error,params", "--sampler", "random", "--seeds", "2", "--processes", "1"]


def test_more_workers_are_sooner(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timed = ["--seconds-from", "train_s", "--workers", "4,1", "--until", "1", "--spread", "0", "--proposal-ms", "0"]
    assert run_app(app, ["simulate", str(table), *OPTIONS, *timed, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, four = found["workers"]
    assert (one["num_workers"], four["num_workers"]) == (1, 4)
    # Every candidate of the table is evaluated: 8 of each time, on one worker one after the other.
    assert one["evaluations"] == four["evaluations"] == 48 and one["utilisation"] == pytest.approx(1)
    assert one["hours"] == pytest.approx(8 * sum(60 + 30 * b for b in range(6)) / 3600)
    assert one["hours"] / 4 <= four["hours"] < one["hours"] / 3
    assert one["hypervolume"] == {"median": 1.0, "worst": 1.0}
    assert four["over_time"]["hypervolume"][-1] == 1 and len(four["over_time"]["hours"]) == len(
        four["over_time"]["busy"]
    )
    page = Path(found["page"])
    assert page == Path("t-simulated.html") and "What more workers bring" in page.read_text()


def test_tables_for_people(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*OPTIONS, "--workers", "1,3", "--evaluations", "12", "--failures", "0.2", "--out", "sub/page.html"]
    assert run_app(app, ["simulate", str(table), *options]) == 0
    said = capsys.readouterr().out
    assert "an evaluation takes 10 min 0 s" in said or "an evaluation takes" in said
    assert "20 % of the evaluations fail" in said and "utilisation" in said and "page: sub/page.html" in said
    assert Path("sub/page.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "--workers 0: legal are numbers from 1"),
        (["--workers", "1,x"], "--workers 1,x: legal are numbers from 1"),
        (["--sampler", "cma"], "unknown sampler 'cma'"),
        (["--reference", "best"], "--reference best: legal are worst, tight"),
        (["--seconds", "5", "--seconds-from", "train_s"], "--seconds and --seconds-from"),
        (["--seconds-from", "none"], "no column 'none'"),
        (["--seconds", "0"], "seconds gives 0 s"),
        (["--out", "."], "--out .: a folder"),
        (["--known", "macs"], "--known macs: not minimised"),
        (["--minimize", ","], "names no column"),
    ],
)
def test_errors_are_one_line(table: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["simulate", str(table), *OPTIONS, *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
