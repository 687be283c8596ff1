"""The command line: quick to start, one line and exit code 2 for what the user must mend."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from experiments.cli import app
from experiments.exits import resumable, run_app
from experiments.output import flatten, number, plain, print_json, print_rows
from experiments.runs import find_run
from search_spaces.errors import UserError

VERBS = [
    "search",
    "resume",
    "status",
    "pareto",
    "pick",
    "export",
    "finalize",
    "build",
    "calibrate",
    "predict",
    "teacher",
]
HEAVY = [
    "torch",
    "ray",
    "optuna",
    "pandas",
    "plotly",
    "diffusers",
    "transformers",
    "onnx",
    "onnxruntime",
    "numpy",
    "moocore",
]


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, experiments.cli; print([name for name in {HEAVY} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("verb", [["search", "--dry-run"], ["search"], ["calibrate", "--out", "p", "--dry-run"]])
def test_what_no_run_can_search_is_refused_before_anything_heavy_is_loaded(verb: list[str], tmp_path: Path) -> None:
    arguments = [*verb, "--set", "space=nanosd-joint"]
    code = (
        f"import sys; from experiments.cli import app; from experiments.exits import run_app; "
        f"print(run_app(app, {arguments}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "2 False"
    assert "decisions beyond the U-Net" in done.stderr and list(tmp_path.iterdir()) == []


def test_help_lists_the_verbs_and_is_quick() -> None:
    before = os.times()
    result = subprocess.run([sys.executable, "-m", "experiments.cli", "--help"], capture_output=True, text=True)
    after = os.times()
    # Its own processor time: the other worker of the tests, or anything else, may be busy meanwhile.
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    assert result.returncode == 0
    assert [verb for verb in VERBS if verb not in result.stdout] == []
    assert seconds < 3, "lenient: 0.2 s on an idle machine; a heavy import at the top costs seconds"


@pytest.mark.parametrize(
    "verb", [[], *([verb] for verb in VERBS), ["teacher", "random"], ["teacher", "show"]], ids=" ".join
)
def test_every_verb_has_help(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, [*verb, "--help"]) == 0
    assert "Usage: nanosd" in capsys.readouterr().out or verb


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serch"], ["serch", "search'?", "see nanosd --help"]),
        (["search", "--sett", "a=1"], ["--sett", "--set"]),
        (["search", "--set", "search.worker=1"], ["search.worker=1", "did you mean search.workers?"]),
        (["search", "--set", "search.workers=two"], ["search.workers", "'two'", "an integer"]),
        (["search", "--max-params", "0"], ["picks.max_params", "0", "> 0"]),
        (["search", "--config", "none.yaml"], ["none.yaml", "cannot be read"]),
        (["search", "--name", "../up"], ["name", "'../up'"]),
        (["calibrate", "--out", "p.json", "--set", "calibration.threads=0"], ["calibration.threads", "0", ">= 1"]),
        (["calibrate"], ["--out"]),
        (["resume", "nowhere"], ["nowhere", "nanosd search"]),
        (["status", "nowhere"], ["nowhere"]),
        (["pareto", "nowhere"], ["nowhere"]),
        (["pick", "nowhere", "--rule", "best"], ["best", "prime"]),
        (["export", "nowhere", "prime", "--out", "x"], ["nowhere"]),
        (["predict"], ["profile"]),
        (["teacher", "random", "x", "--like", "sdxl"], ["sdxl", "sd15"]),
        (["teacher"], ["Missing command", "see nanosd teacher --help"]),
        (["space"], ["Missing command", "see nanosd space --help"]),
        (["space", "show"], ["SPACE", "see nanosd space show --help"]),
        (["space", "sow"], ["sow", "see nanosd space --help"]),
    ],
    ids=" ".join,
)
def test_what_the_user_must_mend_is_one_line_and_exit_code_2(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_app(app, arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("nanosd: ")
    assert len(printed.err.splitlines()) == 1
    assert [word for word in words if word not in printed.err] == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_found_by_folder_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "first"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert find_run("first") == find_run("runs/first") == Path("runs/first")
    assert find_run(str(folder)) == folder
    with pytest.raises(UserError, match="runs here: first"):
        find_run("second")


def test_a_budget_rule_without_a_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").touch()
    assert run_app(app, ["pick", str(tmp_path), "--rule", "budget"]) == 2
    assert "--max-latency-ms" in capsys.readouterr().err


@pytest.mark.parametrize("started", [True, False])
def test_ctrl_c_says_how_to_go_on(started: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = typer.Typer()
    if started:
        (tmp_path / "config.yaml").touch()

    @other.command()
    def work() -> None:
        with resumable(tmp_path):
            raise KeyboardInterrupt

    assert run_app(other, []) == 130
    words = f"stopped; `nanosd resume {tmp_path}` goes on from here" if started else "stopped before the run began"
    assert capsys.readouterr().err == f"nanosd: {words}\n"


def test_ctrl_c_in_a_verb_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    other = typer.Typer()

    @other.command()
    def work() -> None:
        raise KeyboardInterrupt

    assert run_app(other, []) == 130
    assert capsys.readouterr().err.startswith("nanosd: stopped; the same command")


def test_a_disk_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = typer.Typer()

    @other.command()
    def fill() -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    assert run_app(other, []) == 2
    assert (
        capsys.readouterr().err
        == "nanosd: disk: No space left on device; free some space, then resume: what is finished is kept\n"
    )


def test_a_fault_of_the_program_is_not_hidden() -> None:
    other = typer.Typer()

    @other.command()
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_app(other, [])


def test_json_has_plain_values_only(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"candidate": ["R"], "latency_ms": [np.float32(1.5)], "num_params": np.array([3])})
    print_json({"front": frame, "figure": Path("a/b"), "nan": math.nan, "array": np.arange(2), "scalar": np.int64(4)})
    assert json.loads(capsys.readouterr().out) == {
        "front": [{"candidate": "R", "latency_ms": 1.5, "num_params": 3}],
        "figure": "a/b",
        "nan": None,
        "array": [0, 1],
        "scalar": 4,
    }
    assert plain((np.float64("nan"), 1)) == [None, 1]


def test_a_table_in_a_pipe_keeps_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "candidate": "RARA-RARA-RARA-none-RARARA-RARARA-RARARA",
        "num_params": 1_234_567,
        "latency_ms": 12.3456,
        "left": None,
    }
    print_rows([row, row | {"num_params": 2_000_000_000}])
    printed = capsys.readouterr().out
    assert [text for text in (row["candidate"], "1.235 M", "2 G", "12.35") if str(text) not in printed] == []
    assert "left" not in printed


def test_mappings_inside_lists_get_lines_of_their_own() -> None:
    state = {"phases": {"a": 1}, "failures": [{"candidate": "R", "reason": "NaN"}], "none": []}
    assert flatten(state) == {"phases.a": 1, "failures.0.candidate": "R", "failures.0.reason": "NaN", "none": []}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (0.123456, "0.1235"),
        (999_999, "999999"),
        (-2.5e6, "-2.5 M"),
        ([1, 2.0], "1, 2"),
        ([], "-"),
        ("R", "R"),
    ],
)
def test_numbers_as_tables_show_them(value: object, text: str) -> None:
    assert number(value) == text
