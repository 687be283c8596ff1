"""What a user can get wrong before a run has done anything: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.exits import run_app
from nas.config import load_recipe
from nas.progress import Progress
from nas.run import resume
from nas.run.directory import RunDirectory
from nas.run.progress_file import read_progress
from search_spaces.errors import UserError


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run the command in this process; the one line with which it refuses."""
    from experiments.cli import app

    assert run_app(app, [str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--teacher", "nowhere/at/all"), "teacher 'nowhere/at/all' not found"),
        (("--set", "distil.steps=3"), "there is no key distil.steps"),
        (("--set", "distill.steps=many"), "distill.steps"),
        (("--set", "search.workers=0"), "search.workers"),
        (("--set", "space=nanosdd"), "unknown search space 'nanosdd'"),
        (("--config", "no-such.yaml"), "cannot be read"),
        (("--set", "calibration.profile=sm9999"), "give a file, or one of qcs8550-w8a16"),
    ],
)
def test_wrong_arguments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(capsys, "search", "--run", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists(), "a mended recipe finds its name free"


def test_an_unreachable_budget_is_said_before_anything_is_trained(tmp_path: Path, toy_teacher: object) -> None:
    from nas.run.context import RunContext
    from nas.run.phases import check_budgets

    recipe = load_recipe(None, ["picks.max_params=5"])
    run = RunContext(recipe, RunDirectory(tmp_path))
    run.__dict__["latency"] = _OneMillisecond()
    with pytest.raises(UserError, match=r"reaches .* parameters; raise picks"):
        check_budgets(run)


class _OneMillisecond:
    """Every candidate takes one millisecond: budgets of parameters alone are looked at."""

    def latency_ms(self, matrix: object) -> object:
        import numpy as np

        return np.ones(len(matrix))  # type: ignore[arg-type]


def test_a_profile_with_a_nan_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"format_version": 1, "device": "x", "base": float("nan")}))
    message = refused(capsys, "predict", profile, "RARA-RARA-RARA-none-RARARA-RARARA-RARARA")
    assert "profile.json" in message


def test_a_place_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    assert "cannot be written" in refused(capsys, "search", "--run", blocked / "run")


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    from nas.atomic import write_bytes

    (tmp_path / "file").write_text("")
    for below in ("x.json", "deeper/x.json"):
        with pytest.raises(UserError) as caught:
            write_bytes(tmp_path / "file" / below, b"")
        assert str(caught.value).endswith("/file is no folder; choose another place") == (below == "x.json")
        assert str(caught.value).startswith(f"cannot write {tmp_path}/file/{below}: {tmp_path}/file")
    with pytest.raises(UserError, match=f"cannot write {tmp_path}: Is a directory; choose another place$"):
        write_bytes(tmp_path, b"")


@pytest.mark.parametrize("begun", [False, True])
def test_only_a_run_is_resumed(tmp_path: Path, begun: bool) -> None:
    from experiments.exits import resumable
    from nas.atomic import write_bytes

    if begun:
        (tmp_path / "config.yaml").write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught, resumable(tmp_path):
        write_bytes(tmp_path / "file" / "x.json", b"")
    assert (f"then `nanosd resume {tmp_path}`" in str(caught.value)) == begun


CAN_MOUNT = os.geteuid() == 0 and shutil.which("mount") is not None


@pytest.mark.skipif(not CAN_MOUNT, reason="a small disk can only be mounted by root")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    from nas.atomic import write_bytes

    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this sandbox mounts no disks")
    try:
        write_bytes(disk / "result.json", b"old")
        with pytest.raises(UserError, match=r"cannot write .*No space left") as caught:
            write_bytes(disk / "result.json", b"x" * 10**6)
        assert "\n" not in str(caught.value)
        assert [path.name for path in disk.iterdir()] == ["result.json"]
        assert (disk / "result.json").read_bytes() == b"old"
        with pytest.raises(UserError, match="MiB are free"):
            RunDirectory(disk).check_writable()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_run_that_does_not_exist_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("resume", "status", "pareto"):
        assert "no folder with a config.yaml" in refused(capsys, verb, "no-such-run")


def test_a_damaged_store_is_said_before_anything_else_is_done(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.create(load_recipe("experiments/recipes/quickstart.yaml", ["name=run"]))
    directory.store.mkdir()
    (directory.store / "candidates.jsonl").write_text("rubbish\n")
    with pytest.raises(UserError, match=r"candidates\.jsonl: record 1 is damaged"):
        resume(directory.path, None, Progress(silent=True))
    assert not (directory.path / "provenance.json").exists()
    assert read_progress(directory.progress).ended == "stopped"  # type: ignore[union-attr]
