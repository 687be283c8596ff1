"""SIGKILL of the driver of a real sweep: nothing is lost, nothing is done twice, nothing is left running."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest

from nas.search import CandidateStore
from nas.search.ray_session import SESSION_FILE, TOKEN

SCRIPT = Path(__file__).with_name("tiny.py")
ROOT = SCRIPT.parents[3]


def start(run_dir, num, seconds, *more):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(run_dir), str(num), str(seconds), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # As a shell starts it; a script that runs the tests in its background would have it ignore Ctrl-C.
    return subprocess.Popen(
        command, env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **out
    )


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def done(run_dir):
    return CandidateStore(run_dir / "store").counts()["done"]


def kill_when(run_dir, process, num_done):
    """SIGKILL the driver once so many candidates are done; returns its Ray's note."""
    wait_for(lambda: done(run_dir) >= num_done or process.poll() is not None)
    assert process.poll() is None, process.stdout.read()
    note = json.loads((run_dir / "store" / SESSION_FILE).read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    return note


def with_token(token):
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def check_finished(run_dir, num, num_kills):
    records = CandidateStore(run_dir / "store").records()
    assert Counter(r.outcome for r in records) == {"done": num}
    assert len({r.candidate for r in records}) == num
    # Only what was in flight at a kill was started twice.
    starts = Counter(line.split()[0] for line in (run_dir / "evaluations.txt").read_text().splitlines())
    assert sum(starts.values()) <= num + 2 * num_kills and set(starts) == {r.candidate for r in records}
    backend = optuna.storages.journal.JournalFileBackend(str(run_dir / "study.log"))
    study = optuna.load_study(study_name=run_dir.name, storage=optuna.storages.JournalStorage(backend))
    states = Counter(t.state.name for t in study.trials)
    assert states["COMPLETE"] == num and states["RUNNING"] == states["WAITING"] == 0
    interrupted = [t for t in study.trials if t.state.name == "FAIL"]
    # Two workers, and as many proposals made ahead for them that no worker had begun.
    assert {t.user_attrs["reason"] for t in interrupted} <= {"interrupted"} and len(interrupted) <= 4 * num_kills
    # What was interrupted came first after the restart.
    return starts


def test_sigkill_of_the_driver_then_resume(tmp_path):
    run_dir = tmp_path / "run"
    note = kill_when(run_dir, start(run_dir, 12, 0.1), 4)
    finished = {r.candidate for r in CandidateStore(run_dir / "store").records()}
    leftovers = with_token(note["token"])  # Ray's workers and agents live on for a while
    assert Path(note["temp_dir"]).is_dir()
    second = start(run_dir, 12, 0.1)
    output, _ = second.communicate(timeout=200)
    assert (second.returncode, output) == (0, "")  # not a word of Ray's or Optuna's
    starts = check_finished(run_dir, 12, 1)
    assert all(starts[candidate] == 1 for candidate in finished)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in leftovers)
    assert with_token(note["token"]) == [] and not Path(note["temp_dir"]).exists()
    assert sorted(p.name for p in (run_dir / "store").iterdir()) == ["candidates.jsonl"]


@pytest.mark.slow
def test_many_kills(tmp_path):
    run_dir = tmp_path / "run"
    for goal in (1, 9, 20, 28, 37):
        kill_when(run_dir, start(run_dir, 40, 0.1), goal)
    last = start(run_dir, 40, 0.1)
    assert (last.communicate(timeout=200)[0], last.returncode) == ("", 0)
    check_finished(run_dir, 40, 5)


@pytest.mark.slow
def test_kills_of_a_sweep_that_stops_candidates(tmp_path):
    run_dir = tmp_path / "run"

    def far_enough(goal, process):
        counts = CandidateStore(run_dir / "store").counts()
        return counts["done"] + counts["stopped"] >= goal or process.poll() is not None

    for goal in (3, 11, 14, 22, 29):
        process = start(run_dir, 40, 0.2, "dominance")
        wait_for(functools.partial(far_enough, goal, process))
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.03 * (goal % 5))  # anywhere between two rungs
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = start(run_dir, 40, 0.2, "dominance")
    assert (last.communicate(timeout=200)[0], last.returncode) == ("", 0)
    records = CandidateStore(run_dir / "store").records()
    outcomes = Counter(r.outcome for r in records)
    assert outcomes["done"] + outcomes["stopped"] == len(records) == len({r.candidate for r in records}) == 40
    assert outcomes["stopped"] >= 3
    # Only what was in flight at a kill was begun twice, and nothing went on after it was finished.
    lines = [line.split() for line in (run_dir / "evaluations.txt").read_text().splitlines()]
    begun = Counter(candidate for candidate, steps in lines if steps == "0")
    assert sum(begun.values()) <= 40 + 2 * 5 and set(begun) == {r.candidate for r in records}
    ended = {r.candidate: r for r in records}
    last_steps = {candidate: int(steps) for candidate, steps in lines}
    for candidate, steps in last_steps.items():
        assert steps == (30 if ended[candidate].outcome == "done" else ended[candidate].rungs[-1].steps)
    backend = optuna.storages.journal.JournalFileBackend(str(run_dir / "study.log"))
    study = optuna.load_study(study_name=run_dir.name, storage=optuna.storages.JournalStorage(backend))
    states = Counter(t.state.name for t in study.trials)
    assert states["COMPLETE"] == 40 and states["RUNNING"] == states["WAITING"] == 0


@pytest.mark.slow
def test_ctrl_c_stops_quickly_and_resumes(tmp_path):
    run_dir = tmp_path / "run"
    first = start(run_dir, 30, 0.2)
    wait_for(lambda: done(run_dir) >= 3)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode != 0 and "KeyboardInterrupt" in output
    assert not (run_dir / "store" / SESSION_FILE).exists()
    last = start(run_dir, 12, 0.1)
    assert (last.communicate(timeout=200)[0], last.returncode) == ("", 0)
    check_finished(run_dir, 12, 1)
