"""`nanosd calibrate` while it measures: killed, interrupted, on a full disk, or beside another one."""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from latency_predictors.profile import DeviceProfile

pytestmark = pytest.mark.slow

EVERYTHING = ["--set", "calibration.num_fit=3", "--set", "calibration.num_check=2"]
CHOSEN = ["--device", "local", "--budget", "6", "--batch", "3"]
#: Time to measure in: one that ends soon, and one that never ends before the test does.
SHORT, LONG = 2, 600


def command(space_file: Path, arguments: list[str], seconds: int) -> list[str]:
    common = ["--space", str(space_file), "--out", "p.json", "--set", f"calibration.max_seconds={seconds}"]
    return [sys.executable, "-m", "experiments.cli", "calibrate", *arguments, *common]


@contextmanager
def measuring(
    arguments: list[str], journal: Path, until: Callable[[list[dict[str, Any]]], bool]
) -> Iterator[subprocess.Popen[str]]:
    """A calibration in a process of its own, once its journal holds enough; it is gone afterwards."""
    process = subprocess.Popen(
        arguments, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        start = time.monotonic()
        while not until(entries_of(journal)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() - start < 300
            time.sleep(0.05)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def entries_of(journal: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    lines = journal.read_text().splitlines(keepends=True) if journal.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def has_finished(entries: list[dict[str, Any]]) -> bool:
    return any("finished" in entry for entry in entries)


def has_recorded(entries: list[dict[str, Any]]) -> bool:
    return sum("recording" in entry for entry in entries) > 40


def journal_of(folder: Path, arguments: list[str]) -> Path:
    work = folder / "p.json.work"
    return (work if arguments is EVERYTHING else work / "budget") / "measurements.jsonl"


@pytest.mark.parametrize(
    ("arguments", "until", "num_parts", "num_networks"),
    [(EVERYTHING, has_recorded, 14, 3), (CHOSEN, has_finished, 0, 6)],
    ids=["everything", "chosen"],
)
def test_a_killed_calibration_goes_on(
    arguments: list[str],
    until: Callable[[list[dict[str, Any]]], bool],
    num_parts: int,
    num_networks: int,
    folder: Path,
    space_file: Path,
) -> None:
    journal = journal_of(folder, arguments)
    first = LONG if arguments is EVERYTHING else SHORT  # that one is killed in its second batch
    with measuring(command(space_file, arguments, first), journal, until) as process:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    kept = entries_of(journal)
    assert kept and (arguments is CHOSEN or not (folder / "p.json").exists())
    subprocess.run(command(space_file, arguments, SHORT), check=True, capture_output=True)
    entries = entries_of(journal)
    assert entries[: len(kept)] == kept, "what was measured before the kill stays"
    finished = [name for entry in entries for name in entry.get("finished", [])]
    assert len(finished) == len(set(finished)), "nothing finished is measured twice"
    done_before = {name for entry in kept for name in entry.get("finished", [])}
    again = {entry["recording"]["subject"] for entry in entries[len(kept) :] if "recording" in entry}
    assert not done_before & again
    profile = DeviceProfile.load(folder / "p.json")
    assert (profile.num_parts, profile.num_networks) == (num_parts, num_networks)
    assert all(math.isfinite(check.measured_ms) for check in profile.fitted)


@pytest.mark.parametrize(
    ("arguments", "others"), [(EVERYTHING, CHOSEN), (CHOSEN, EVERYTHING)], ids=["everything", "chosen"]
)
def test_a_second_calibration_of_one_profile_is_refused(
    arguments: list[str], others: list[str], folder: Path, space_file: Path
) -> None:
    journal = journal_of(folder, arguments)
    with measuring(command(space_file, arguments, LONG), journal, lambda entries: len(entries) > 1) as first:
        os.killpg(first.pid, signal.SIGSTOP)  # so that it does not end before the other one begins
        before = journal.read_bytes()
        second = subprocess.run(command(space_file, others, SHORT), capture_output=True, text=True)
        assert second.returncode == 2, second.stderr
        (line,) = second.stderr.splitlines()
        assert "another nanosd process is working in it" in line
        assert journal.read_bytes() == before and first.poll() is None
    assert not (folder / "p.json").exists()


@pytest.mark.parametrize("arguments", [EVERYTHING, CHOSEN], ids=["everything", "chosen"])
def test_an_interrupt_is_one_line(arguments: list[str], folder: Path, space_file: Path) -> None:
    journal = journal_of(folder, arguments)
    with measuring(command(space_file, arguments, LONG), journal, has_recorded) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the whole group
        out, err = process.communicate(timeout=60)
    lines = [line for line in err.splitlines() if not line.startswith("calibrate")]
    assert lines == ["nanosd: stopped; the same command again goes on with what is kept"] and not out
    assert process.returncode == 130


@pytest.mark.parametrize("arguments", [EVERYTHING, CHOSEN], ids=["everything", "chosen"])
def test_a_full_disk_is_one_line_and_loses_nothing(arguments: list[str], folder: Path, space_file: Path) -> None:
    """A limit on the size of a file stands for a full disk: the journal is filled up to just below it."""
    journal = journal_of(folder, arguments)
    num_bytes = 64 << 20  # far above any graph of the toy

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    with measuring(command(space_file, arguments, LONG), journal, lambda entries: len(entries) > 2) as process:
        os.killpg(process.pid, signal.SIGKILL)
    kept = entries_of(journal)
    os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)  # a line torn by the kill
    room = num_bytes - journal.stat().st_size
    with journal.open("ab") as file:
        file.write((json.dumps({"digests": {"padding": "0" * (room - 100)}}) + "\n").encode())
    ended = subprocess.run(command(space_file, arguments, SHORT), preexec_fn=limit, capture_output=True, text=True)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("calibrate")]
    assert ended.returncode == 2 and len(lines) == 1, ended.stderr
    assert str(journal.relative_to(folder)) in lines[0] and "ulimit -f" in lines[0]
    again = entries_of(journal)
    assert again[: len(kept)] == kept and len(again) == len(kept) + 1, "no half line is left"
