"""Results that could not be written are refused before anything else is looked at, in one line, by every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import app
from experiments.exits import run_app
from nas.config import load_recipe
from nas.run.directory import RunDirectory

COMMANDS = {
    "predict": ["predict", "nowhere.json", "--all", "--out", "{file}.csv"],
    "calibrate": ["calibrate", "--teacher", "nowhere", "--out", "{file}.json"],
    "calibrate from less": ["calibrate", "--teacher", "nowhere", "--anchor", "3", "--out", "{file}.json"],
    "calibrate within a budget": ["calibrate", "--teacher", "nowhere", "--budget", "3", "--out", "{file}.json"],
    "evaluate": ["calibrate", "--evaluate", "nowhere.json", "--out", "{file}.html"],
    "export": ["calibrate", "--teacher", "nowhere", "--budget", "3", "--out", "p.json", "--export", "{folder}"],
    "measure": ["measure", "--teacher", "nowhere", "--blocks", "all", "--out", "{folder}"],
    "retarget": ["retarget", "run", "--device", "nowhere.json", "--out", "{folder}"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    RunDirectory("run").create(load_recipe(None, []))
    return tmp_path


@pytest.mark.parametrize("place", ["/proc/x/y", "file/y", "file/deep/y"])
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_place_that_cannot_be_written(
    here: Path, command: list[str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("in the way")
    assert run_app(app, [part.format(file=place, folder=place) for part in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    why = "folder /proc/x cannot be made" if place.startswith("/proc") else "file is no folder"
    assert place in line and f"cannot be written ({why}" in line and "; give " in line
    assert sorted(p.name for p in here.iterdir()) == ["file", "run"]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_something_in_the_way(here: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("y.csv", "y.json", "y.html", "y/measurements.csv", "y/picks.json"):
        (here / name).mkdir(parents=True)
    if "--export" in command:
        (here / "y").rename(here / "z")
        (here / "y").write_text("")
    assert run_app(app, [part.format(file="y", folder="y") for part in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be written (y" in line and ("is a folder);" in line or "is no folder);" in line)


@pytest.mark.parametrize("command", [COMMANDS["calibrate"], COMMANDS["calibrate within a budget"]])
def test_a_file_where_measurements_are_kept(here: Path, command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (here / "p.json.work").write_text("in the way")
    arguments = [part.format(file="p") for part in command]
    if "--budget" in arguments:
        arguments += ["--device", "local"]
    assert run_app(app, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "p.json.work: cannot be written (p.json.work is no folder)" in line


def test_a_run_that_cannot_be_written_needs_another_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "run" / "retarget").write_text("in the way")
    assert run_app(app, ["retarget", "run", "--device", "nowhere.json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "run/retarget is no folder" in line and line.endswith("give another folder with --out")


def test_results_do_not_replace_what_is_read_or_something_else(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids, other = here / "ids.csv", here / "config.yaml"
    ids.write_text("id\n")
    other.write_text("name: mine\n")
    anchor = ["calibrate", "--anchor", "5", "--device", "x", "--runtime", "r", "--precision", "fp32"]
    for arguments, message in (
        (["predict", "p.json", "--from-file", str(ids), "--out", str(ids)], "is what --from-file"),
        ([*anchor, "--out", str(other)], "holds something else; give another --out"),
        (["calibrate", "--evaluate", "p.json", "--out", str(ids)], "is there and no page"),
        (["measure", "--blocks", "E1/RA", "--option", "threads=7", "--threads", "2"], "threads=7 contradicts"),
    ):
        assert run_app(app, arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line, (arguments, line)
    assert ids.read_text() == "id\n" and other.read_text() == "name: mine\n"
