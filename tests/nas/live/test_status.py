"""How a run is doing, read from the files that its own driver and workers write."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import optuna
import pytest

from experiments.cli import app
from experiments.exits import run_app
from nas.live import LiveRun, RunStatus
from nas.live.results import Results
from nas.live.study_tail import StudyTail
from nas.pareto import ObjectiveScale, front
from nas.progress import Progress
from nas.run.directory import RunDirectory
from nas.run.progress_file import ProgressFile, read_progress
from nas.search import CandidateRecord, CandidateStore
from nas.search.presence import Presence, clear_workers, read_workers
from search_spaces.errors import UserError
from tests.nas.live.made_up_run import BOUNDS, MadeUpRun, error_of


def nanosd(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """What the command prints and says."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        returned = run_app(app, [str(each) for each in arguments])
    assert returned == code, err.getvalue()
    return out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> MadeUpRun:
    """A stopped run with nine finished and two failed evaluations, and one that its driver left open."""
    run = MadeUpRun(tmp_path_factory.mktemp("grown") / "run")
    file = ProgressFile(run.directory.progress)
    progress = Progress(silent=True)
    with pytest.raises(UserError), run.directory.lock(), file.over(), progress.followed(file.follow):
        with progress.phase("distill", 30) as phase:
            phase.advance(30)
        run.directory.add_seconds("distill", 4.0)
        with progress.phase("search", 12):
            run.evaluate(9)
            for seconds in (60, 75):
                run.end(*run.propose(), reason=f"no result within {seconds} s")
            run.propose()
            raise UserError("the disk is full; free some")
    return run


def test_a_run_in_every_state(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    live = LiveRun(run.directory.path)
    fresh = live.status()
    assert (fresh.state, fresh.phase, fresh.candidates_done, fresh.workers) == ("stopped", None, 0, ())
    file, progress = ProgressFile(run.directory.progress), Progress(silent=True)
    with run.directory.lock(), file.over(), progress.followed(file.follow):
        with progress.phase("calibrate", 40) as phase:
            phase.skip(10)
            time.sleep(0.6)  # more than the least time between two writings
            phase.advance(10, options=3)
            status = live.status()
            assert status.state == "running" and status.driver.alive and status.driver.pid == os.getpid()
            assert status.phase is not None and (status.phase.name, status.phase.done) == ("calibrate", 20)
            assert status.phase.note == "options 3" and status.resume is None
            # Ten of the forty were found done: the other twenty take twice the time of the ten that were not.
            assert status.phase.remaining_s == pytest.approx(2 * status.phase.seconds, abs=0.3)
        with progress.phase("search", 12):
            run.evaluate(6)
            status = live.status()
            assert status.phase is not None and (status.phase.done, status.phase.total) == (6, 12)
            assert status.phase.remaining_s is not None and status.evaluations_per_minute is not None
            assert status.phase.remaining_s == pytest.approx(60 * 6 / status.evaluations_per_minute)
    run.directory.report.write_text("<p>")
    done = live.status()
    assert (done.state, done.reason, done.resume, done.report) == ("finished", None, None, str(run.directory.report))
    # Another command that holds a finished run does not make it run again; one that goes on with it does.
    with run.directory.lock():
        assert live.status().state == "finished"
        with ProgressFile(run.directory.progress).over():
            assert live.status().state == "running"


def test_what_was_stopped_at_a_rung_is_done_with_and_not_measured(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.evaluate(6)
    run.stop(*run.propose())
    live = LiveRun(run.directory.path)
    before = live.status()
    assert before.proposals[0].state == "stopped" and before.proposals[0].measured is None
    assert before.calibration is not None and before.calibration.num == sum(
        each.predicted is not None and each.state == "done" for each in before.proposals
    )
    file, progress = ProgressFile(run.directory.progress), Progress(silent=True)
    with run.directory.lock(), file.over(), progress.followed(file.follow), progress.phase("search", 12):
        status = live.status()
        assert status.phase is not None and (status.phase.done, status.phase.total) == (7, 12)


def test_what_stopped_it_and_how_to_go_on(grown: MadeUpRun) -> None:
    status = LiveRun(grown.directory.path).status()
    assert (status.state, status.reason) == ("stopped", "the disk is full; free some")
    assert status.resume == f"nanosd resume {grown.directory.path}"
    assert status.phase is not None and status.phase.name == "search" and status.phase.remaining_s is None
    text, _ = nanosd("status", grown.directory.path)
    words = " ".join(text.split())
    assert "interrupted" in words and "waits" not in words
    assert "stopped the disk is full" in words and "9 of 12 done, 2 failed" in words and "distill 4 s" in words


DRIVER = """
import sys, time
from pathlib import Path
from nas.progress import Progress
from nas.run.directory import RunDirectory
from nas.run.progress_file import ProgressFile
directory = RunDirectory(Path(sys.argv[1]))
file, progress = ProgressFile(directory.progress), Progress(silent=True)
with directory.lock(), file.over(), progress.followed(file.follow), progress.phase("distill", 9) as phase:
    phase.advance(9)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_driver_that_is_killed(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    command = [sys.executable, "-c", DRIVER, str(run.directory.path)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "ready\n"
        live = LiveRun(run.directory.path)
        assert (live.status().state, live.status().driver.pid) == ("running", driver.pid)
        watching = subprocess.Popen(
            [sys.executable, "-m", "experiments.cli", "status", "--watch", "--json", str(run.directory.path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As a shell starts it; a script that runs the tests in its background would have it ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert watching.stdout is not None and json.loads(watching.stdout.readline())["state"] == "running"
        watching.send_signal(signal.SIGINT)  # Ctrl-C ends the looking, without a word
        assert watching.communicate(timeout=60)[1] == "" and watching.returncode == 0
        assert live.status().state == "running"
    finally:
        driver.kill()
        driver.wait()
    status = live.status()
    assert (status.state, status.driver.alive, status.reason) == ("killed", False, None)
    assert status.phase is not None and (status.phase.name, status.phase.done) == ("distill", 9)
    text, _ = nanosd("status", "--watch", run.directory.path)  # ends by itself: there is nothing to watch
    assert "killed" in text and f"nanosd resume {run.directory.path}" in text.replace("\n", "")


def test_workers_and_what_each_evaluates(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.evaluate(6)
    number, planned = run.propose()
    live, presence = LiveRun(run.directory.path), Presence(run.directory.store)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with run.directory.lock(), ProgressFile(run.directory.progress).over():
        presence.starting()
        (worker,) = live.status().workers
        assert (worker.doing, worker.candidate) == ("starting", None)
        presence.evaluating(planned)
        (file,) = (run.directory.store / "workers").glob("*.json")
        other = json.loads(file.read_text()) | {"pid": gone.pid}
        file.with_name("gone.json").write_text(json.dumps(other))
        file.with_name("torn.json").write_text(file.read_text()[:40])
        (worker,) = live.status(time.time() + 100).workers
        assert worker.doing == "evaluating" and worker.seconds == pytest.approx(100, abs=2)
        assert (worker.candidate, worker.latency_ms) == (planned.candidate, planned.latency_ms)
        proposal = run.study.trials[number].user_attrs["proposal"]
        assert worker.predicted == tuple(proposal["predicted"][0]) and worker.prior == error_of(planned.vector)
        run.end(number, planned)
        assert [w.doing for w in live.status().workers] == ["waiting"]
    assert live.status().workers == ()  # whatever files there are: nobody drives it
    clear_workers(run.directory.store)
    assert read_workers(run.directory.store) == []


def test_figures_equal_their_definitions(grown: MadeUpRun) -> None:
    status = LiveRun(grown.directory.path).status()
    done = [r for r in grown.store.records() if r.outcome == "done"]
    values = np.array([[r.metrics["latent_error"], r.latency_ms, r.num_params] for r in done])
    low, high = np.array(BOUNDS).T
    assert status.hypervolume == pytest.approx(ObjectiveScale.of(values, (low, high)).hypervolume(values))
    assert status.front_size == len(np.unique(values[front(values)], axis=0))
    assert status.outcomes == {**grown.store.counts()} and status.candidates_done == 9
    (failure,) = status.failures  # the same reason but for its number
    assert (failure.outcome, failure.num_candidates) == ("failed", 2) and failure.reason == "no result within 75 s"
    assert failure.example == grown.store.records()[-1].candidate


def test_the_speed_of_the_last_evaluations(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.ended = 100.0 + np.array([np.nan, *range(0, 600, 10), 1000, 1002, 1004, 1006, 1008])
    assert results.per_second(since=1090, now=1109) == pytest.approx(1 / 2)
    assert results.per_second(since=1090, now=None) == pytest.approx(1 / 2)
    # Nothing for a minute: five in 68 seconds.
    assert results.per_second(since=1090, now=1168) == pytest.approx(5 / 68)
    assert results.per_second(since=1103, now=1109) is None
    assert results.per_second(since=None, now=None) == pytest.approx(49 / (1108 - (100 + 150)))


def test_the_journal_is_read_as_optuna_reads_it(grown: MadeUpRun, tmp_path: Path) -> None:
    path = grown.directory.path / "study.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    trials = optuna.load_study(study_name=grown.study.study_name, storage=storage).trials
    tail = StudyTail(path)
    tail.refresh()
    assert len(tail.last(100)) == len(trials) == 12
    for found in tail.last(100):
        trial = trials[found.number]
        assert found.attrs == trial.user_attrs and found.ended == trial.state.is_finished()
        assert found.measured == (trial.values[0] if trial.values else None)
    # Followed while it grows, by pieces that end anywhere; from a place in its middle; begun anew.
    data, copy = path.read_bytes(), tmp_path / "study.log"
    followed = StudyTail(copy)
    for end in range(0, len(data), 9_973):
        copy.write_bytes(data[:end]) if end == 0 else copy.open("ab").write(data[end - 9_973 : end])
        followed.refresh()
    copy.open("ab").write(data[end:] + b'{"op_code":8,"trial_id":0,"user_at')
    followed.refresh()
    assert followed.trials == tail.trials
    late = StudyTail(path, tail_bytes=len(data) // 3)
    late.refresh()
    assert [t.number for t in late.last(3)] == [11, 10, 9] and late.last(1)[0].attrs == trials[11].user_attrs
    os.replace(path.parent / "config.yaml", tmp_path / "aside")  # any other file in the journal's place
    os.replace(tmp_path / "aside", path.parent / "config.yaml")
    copy.write_bytes(b"")
    followed.refresh()
    assert followed.trials == {}


def test_reasons_and_what_came_of_them(grown: MadeUpRun) -> None:
    status = LiveRun(grown.directory.path).status()
    assert [p.trial for p in status.proposals] == list(range(11, -1, -1))
    opened, failed, *_, first = status.proposals
    assert (opened.state, opened.measured) == ("open", None)
    assert (failed.state, failed.reason) == ("failed", "no result within 75 s")
    assert first.why == "initial" and first.predicted is None and first.state == "done"
    judged = [p for p in status.proposals if p.predicted and p.measured is not None]
    assert judged and all(p.why in ("improvement", "random") and p.expected_improvement is not None for p in judged)
    assert status.calibration is not None and status.calibration.num == len(judged)
    within = [p.predicted[0] <= p.measured <= p.predicted[2] for p in judged if p.predicted and p.measured is not None]
    assert status.calibration.within == sum(within)


def test_the_json_of_a_status(grown: MadeUpRun) -> None:
    data = json.loads(nanosd("status", "--json", grown.directory.path)[0])
    assert RunStatus.model_validate_json(json.dumps(data)) == LiveRun(grown.directory.path).status()
    lines = nanosd("status", "--json", "--watch", grown.directory.path)[0].splitlines()
    assert [json.loads(line) for line in lines] == [data]


def test_damaged_files(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.evaluate(2)
    path = run.directory.path
    (path / "progress.json").write_text('{"pid": 1')
    (path / "study.log").write_bytes(b"\0" * 300)
    (path / "space.json").write_text("[]")
    status = LiveRun(path).status()
    assert (status.state, status.candidates_done, status.proposals) == ("stopped", 2, ())
    assert status.notes[0].startswith("study.log cannot be read") and "note: study.log" in nanosd("status", path)[0]
    with open(path / "store" / "candidates.jsonl", "a") as file:
        file.write("{}\n")
    assert "record 3 is damaged" in nanosd("status", path, code=2)[1]
    assert len(nanosd("status", "--watch", path, code=2)[1].splitlines()) == 1
    run.directory.config.write_text("")
    assert nanosd("status", path, code=2)[1].count("\n") == 1


def test_looking_on_is_in_nobodys_way(grown: MadeUpRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in grown.directory.path.rglob("*")}
    LiveRun(grown.directory.path).status()
    assert {path: path.stat().st_mtime_ns for path in grown.directory.path.rglob("*")} == before
    with grown.directory.lock():
        assert RunDirectory(grown.directory.path).is_locked()
    assert not grown.directory.is_locked()


def test_a_place_that_cannot_be_written_stops_neither_run_nor_worker(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")  # a file in the folder's place
    planned = CandidateRecord(
        candidate="a", options={}, vector=(), outcome="done", latency_ms=1, num_params=1, trial="t"
    )
    Presence(tmp_path / "store").evaluating(planned)
    with ProgressFile(tmp_path / "store" / "progress.json").over():
        pass
    assert read_progress(tmp_path / "store" / "progress.json") is None
    assert os.listdir(tmp_path) == ["store"]


def test_a_store_that_is_sealed_as_it_grows(tmp_path: Path) -> None:
    store = CandidateStore(tmp_path / "store", seal_records=500)
    rng = np.random.default_rng(0)
    records = [
        CandidateRecord(
            candidate=f"c{i}",
            options={"E1": "R"},
            vector=(i,),
            outcome="failed" if i % 7 == 0 else "done",
            reason=f"latent_error is {i}" if i % 7 == 0 else None,
            latency_ms=float(rng.random()),
            num_params=int(rng.integers(1, 1000)),
            metrics={} if i % 7 == 0 else {"latent_error": float(rng.random())},
            trial=f"t{i}",
            finished_at=f"2026-01-01T00:{i // 60 % 60:02d}:{i % 60:02d}+00:00",
        )
        for i in range(2_000)
    ]
    results = Results(tmp_path / "store")
    for start in range(0, 2_000, 700):  # some sealed, some not, and more each time
        store.extend(records[start : start + 700])
        assert results.refresh()
        done = [r for r in records[: start + 700] if r.outcome == "done"]
        assert [tuple(v) for v in results.values] == [
            (r.metrics["latent_error"], r.latency_ms, r.num_params) for r in done
        ]
        (group,) = results.groups()
        assert group.num == results.num - len(done)
        scale = ObjectiveScale.of(results.values)
        assert results.history(None)[-1] == pytest.approx(scale.hypervolume(results.values))
    assert not results.refresh()


@pytest.mark.slow
def test_the_workers_of_a_real_sweep(tmp_path: Path) -> None:
    """Two workers of Ray, whose files name what Optuna has under evaluation, and which go with the sweep."""
    script = Path(__file__).parent.parent / "search" / "tiny.py"
    run = tmp_path / "run"
    driver = subprocess.Popen([sys.executable, str(script), str(run), "16", "0.7"])
    most: set[str] = set()
    tail = StudyTail(run / "study.log")
    while driver.poll() is None:
        states = [state for state in read_workers(run / "store") if state.doing == "evaluating"]
        tail.refresh()
        for state in states:
            trial = tail.named(state.trial)
            assert trial is not None and trial.attrs["candidate"] == state.candidate
        most = max(most, {state.worker for state in states}, key=len)
        time.sleep(0.05)
    assert driver.returncode == 0 and len(most) == 2
    assert most >= {record.worker for record in CandidateStore(run / "store").records()[-4:]}
    assert not (run / "store" / "workers").exists()
