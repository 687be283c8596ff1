"""Sweeps with real Ray and Optuna in this process; one Ray for all of them."""

import importlib.util
import io
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest

from nas.pareto import ObjectiveScale, front, hypervolume_history
from nas.search import CandidateRecord, CandidateStore, SweepSettings, export_tables, run_sweep
from nas.search.learning_curves import Point
from nas.search.ray_session import ray_session
from nas.search.stopping import Stopper, StoppingSettings
from search_spaces.errors import UserError

_spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

TrialState = optuna.trial.TrialState


@pytest.fixture(scope="module", autouse=True)
def shared_ray(tmp_path_factory):
    with ray_session(tmp_path_factory.mktemp("ray"), 2, None):
        yield


def sweep(run_dir, factory, num=6, space=tiny.SPACE, **settings):
    settings = SweepSettings(num_candidates=num, **({"sampler": "random", "num_warm_start": 4} | settings))
    calls = []
    try:
        return run_sweep(
            space, factory, tiny.costs(), settings, run_dir, tiny.prior, lambda **c: calls.append(c)
        ), calls
    finally:
        optuna.logging.set_verbosity(optuna.logging.ERROR)


def study_of(run_dir):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run_dir / "study.log")))
    return optuna.load_study(study_name=run_dir.name, storage=storage)


def ids(*vectors):
    return [tiny.SPACE.decode(np.array(v)).id for v in vectors]


def test_a_sweep_a_longer_one_and_what_they_leave(tmp_path):
    log = tmp_path / "log"
    result, calls = sweep(tmp_path / "run", tiny.evaluator(0.02, str(log)), num=6)
    assert (result.done, result.failed, result.exhausted) == (6, 0, False)
    result, more = sweep(tmp_path / "run", tiny.evaluator(0.02, str(log)), num=10, sampler="tpe")
    assert result.done == 10
    # No candidate was evaluated twice, by two processes of one thread each; both ends of the space are among them.
    lines = [line.split() for line in log.read_text().splitlines()]
    evaluated = [line[0] for line in lines]
    assert len(set(evaluated)) == len(evaluated) == 10
    assert len({line[1] for line in lines[:6]}) == 2 and {line[2] for line in lines} == {"1"}
    assert {tiny.SPACE.named("largest").id, tiny.SPACE.named("smallest").id} <= set(evaluated[:4])
    # The store, the study and the progress say the same.
    records = CandidateStore(tmp_path / "run" / "store").records()
    assert sorted(r.candidate for r in records) == sorted(evaluated)
    first = records[0]
    assert first.num_macs is not None and first.metrics["noise_error"] > 0 and first.seconds >= 0.02
    assert first.prior == pytest.approx(float(tiny.prior(np.array([first.vector]))[0]))
    trials = study_of(tmp_path / "run").get_trials(states=(TrialState.COMPLETE,))
    by_id = {t.user_attrs["candidate"]: t for t in trials}
    for r in records:
        trial = by_id[r.candidate]
        assert trial.values == [r.metrics["latent_error"], r.latency_ms, r.num_params]
        assert trial.params == {d.name: r.options[d.name] for d in tiny.SPACE.free_decisions}
        assert trial.user_attrs["metrics"] == r.metrics and trial.user_attrs["worker"] == r.worker
        assert trial.user_attrs["seconds"] == r.seconds and trial.user_attrs["costs"]["num_macs"] == r.num_macs
        assert trial.user_attrs["words"].startswith("E1:")
    assert [c["done"] for c in calls] == list(range(7)) and [c["done"] for c in more] == list(range(6, 11))
    values = np.array([[r.metrics["latent_error"], r.latency_ms, r.num_params] for r in records])
    table = tiny.costs().matrix(tiny.SPACE.enumerate())
    scale = ObjectiveScale.of(values, (table.min(axis=0), table.max(axis=0)))
    assert more[-1]["hypervolume"] == pytest.approx(hypervolume_history(values, scale)[-1])
    assert more[-1]["front_size"] == len(np.unique(values[front(values)], axis=0)) == result.front_size
    assert more[-1]["total"] == 10 and more[-1]["failed"] == 0
    check_dashboard(tmp_path / "run")
    # A finished run is left alone, without Ray.
    before = log.read_text()
    assert sweep(tmp_path / "run", tiny.evaluator(0, str(log)), num=10)[0].done == 10
    assert log.read_text() == before


def check_dashboard(run_dir):
    """What optuna-dashboard's own server answers about the run's journal."""
    dashboard = pytest.importorskip("optuna_dashboard", reason="the extra 'dashboard' is not installed")
    backend = optuna.storages.journal.JournalFileBackend(str(run_dir / "study.log"))
    app = dashboard.wsgi(optuna.storages.JournalStorage(backend))

    def get(path, query=""):
        status = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
        environ |= {"wsgi.url_scheme": "http", "wsgi.errors": sys.stderr, "SERVER_NAME": "x", "SERVER_PORT": "80"}
        body = b"".join(app(environ, lambda s, h, *a: status.append(s)))
        assert status[0].startswith("200"), (path, status)
        return json.loads(body)

    listed = get("/api/studies")["study_summaries"]
    assert [s["study_name"] for s in listed] == ["run"]
    detail = get(f"/api/studies/{listed[0]['study_id']}", "after=0")
    assert detail["directions"] == ["minimize"] * 3
    assert detail["objective_names"] == ["latent_error", "latency_ms", "num_params"]
    complete = [t for t in detail["trials"] if t["state"] == "Complete"]
    assert len(complete) == 10
    assert len(complete[0]["values"]) == 3 and {p["name"] for p in complete[0]["params"]} == {
        d.name for d in tiny.SPACE.free_decisions
    }
    assert {"candidate", "words", "costs", "seconds"} <= {a["key"] for a in complete[0]["user_attrs"]}


@pytest.mark.parametrize("retry_failed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_bad_evaluations_fail_alone_with_their_reason(tmp_path, retry_failed):
    # The first four of the warm start: each fails in its own way.
    points = run_points(tmp_path)
    special = dict(zip(points, ["nan", "inf", "missing", "raise"], strict=True))
    result, calls = sweep(tmp_path / "run", tiny.evaluator(special=special), num=5, workers=1)
    assert (result.done, result.failed) == (5, 4) and calls[-1]["failed"] == 4
    failed = {
        r.candidate: r.reason for r in CandidateStore(tmp_path / "run" / "store").records() if r.outcome == "failed"
    }
    assert failed[points[0]] == "latent_error is nan" and failed[points[1]] == "latent_error is inf"
    assert "latent_error is missing" in failed[points[2]] and failed[points[3]] == "RuntimeError: out of luck"
    assert "Traceback" in (tmp_path / "run" / "store" / "failures.log").read_text()
    states = Counter(t.state for t in study_of(tmp_path / "run").trials)
    assert states == {TrialState.COMPLETE: 5, TrialState.FAIL: 4}
    # Not tried again in this run, unless asked for.
    if retry_failed:
        result, _ = sweep(tmp_path / "run", tiny.evaluator(), num=9, workers=1, retry_failed=True)
        assert (result.done, result.failed) == (9, 0)
    else:
        result, _ = sweep(tmp_path / "run", tiny.evaluator(), num=7, workers=1)
        assert (result.done, result.failed) == (7, 4)


def run_points(tmp_path):
    from nas.search import warm_start

    costs = tiny.costs()
    found = warm_start(tiny.SPACE, tiny.prior, costs.latency_ms, costs.num_params, 4)
    return [tiny.SPACE.decode(v).id for v in found]


def test_too_many_failures_stop_the_sweep_with_one_line(tmp_path):
    special = dict.fromkeys(run_points(tmp_path), "raise")
    with pytest.raises(
        UserError, match=r"3 evaluations failed.*search.max_failures is 3.*RuntimeError: out of luck"
    ) as e:
        sweep(tmp_path / "run", tiny.evaluator(special=special), num=20, max_failures=3, workers=1)
    assert "\n" not in str(e.value)
    assert CandidateStore(tmp_path / "run" / "store").counts()["failed"] == 3
    assert not [t for t in study_of(tmp_path / "run").trials if not t.state.is_finished()]


def test_an_evaluator_that_cannot_be_made_is_one_line(tmp_path):
    def make():
        raise FileNotFoundError("teacher is gone")

    with pytest.raises(UserError, match="the evaluator cannot be made: FileNotFoundError: teacher is gone"):
        sweep(tmp_path / "run", make, workers=1)
    # Its candidate was not to blame.
    assert CandidateStore(tmp_path / "run" / "store").records() == []
    assert [t.user_attrs["reason"] for t in study_of(tmp_path / "run").trials] == ["interrupted"]


def test_a_small_space_ends_when_all_is_evaluated(tmp_path):
    result, _ = sweep(tmp_path / "run", tiny.evaluator(), num=20, space=tiny.SMALL, sampler="nsga2", workers=2)
    assert (result.done, result.exhausted) == (6, True)
    records = CandidateStore(tmp_path / "run" / "store").records()
    assert len({r.candidate for r in records}) == 6


def test_limits_are_hard_and_counted(tmp_path):
    result, calls = sweep(tmp_path / "run", tiny.evaluator(), num=5, workers=1, max_latency_ms=20, max_params=960)
    assert (result.done, result.infeasible) == (5, 1) and calls[0]["infeasible"] == 1
    records = CandidateStore(tmp_path / "run" / "store").records()
    refused = [r for r in records if r.outcome == "infeasible"]
    assert [r.candidate for r in refused] == [tiny.SPACE.named("largest").id]
    assert refused[0].reason == (
        "predicted latency 30 ms is over max_latency_ms = 20; 1,000 parameters are over max_params = 960"
    )
    assert all(r.latency_ms <= 20 and r.num_params <= 960 for r in records if r.outcome == "done")
    with pytest.raises(UserError, match="raise the limit"):
        sweep(tmp_path / "other", tiny.evaluator(), max_latency_ms=1)


def test_a_killed_worker_costs_one_trial_and_the_pool_recovers(tmp_path):
    points = run_points(tmp_path)
    special = {points[1]: f"kill once {tmp_path / 'flag'}", points[2]: "kill"}
    log = tmp_path / "log"
    result, _ = sweep(tmp_path / "run", tiny.evaluator(0.2, str(log), special), num=16)
    assert (result.done, result.failed) == (16, 1)
    records = {r.candidate: r for r in CandidateStore(tmp_path / "run" / "store").records()}
    assert records[points[1]].outcome == "done"
    assert records[points[2]].reason == "evaluator process died twice"
    times = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert times[points[1]] == times[points[2]] == 2 and max(times.values()) == 2
    assert sum(n == 2 for n in times.values()) == 2
    # Two workers share the work again after the deaths, although an evaluation is shorter than a start.
    last = [line.split()[1] for line in log.read_text().splitlines()[-4:]]
    assert len(set(last)) == 2
    assert not [t for t in study_of(tmp_path / "run").trials if not t.state.is_finished()]


@pytest.mark.slow
def test_evaluations_that_hang_or_fill_the_memory_fail_alone(tmp_path):
    points = run_points(tmp_path)
    special = {points[0]: "hang", points[1]: "memory", points[2]: f"hang once {tmp_path / 'flag'}", points[3]: "nan"}
    log = tmp_path / "log"
    factory = tiny.evaluator(0.1, str(log), special)
    result, _ = sweep(tmp_path / "run", factory, num=10, trial_timeout_s=4, worker_memory_gb=0.6)
    assert (result.done, result.failed) == (10, 3)
    records = {r.candidate: r for r in CandidateStore(tmp_path / "run" / "store").records()}
    assert records[points[0]].reason == "no result within 4 s (search.trial_timeout_s), twice"
    assert records[points[1]].reason == "more than 0.6 GB of memory (search.worker_memory_gb), twice"
    assert records[points[2]].outcome == "done" and records[points[3]].reason == "latent_error is nan"
    times = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert {candidate: n for candidate, n in times.items() if n != 1} == dict.fromkeys(points[:3], 2)
    again = [t for t in study_of(tmp_path / "run").trials if "tried once more" in t.user_attrs.get("reason", "")]
    assert len(again) == 3 and all(t.state.is_finished() for t in study_of(tmp_path / "run").trials)


def test_a_second_driver_is_refused(tmp_path):
    import fcntl
    import os

    (tmp_path / "run").mkdir()
    handle = os.open(tmp_path / "run", os.O_RDONLY)  # as the first driver, another open file
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="another process is driving its sweep"):
        sweep(tmp_path / "run", tiny.evaluator())
    assert list((tmp_path / "run").iterdir()) == []
    os.close(handle)
    assert sweep(tmp_path / "run", tiny.evaluator(), num=2)[0].done == 2


def test_more_workers_than_there_is_room_for(tmp_path):
    with pytest.raises(UserError, match=r"room for 1 workers of search.cpus_per_trial 1.5 .*search.workers is 2"):
        sweep(tmp_path / "run", tiny.evaluator(), cpus_per_trial=1.5)
    with pytest.raises(UserError, match=r"room for 0 workers .*search.gpus_per_trial 900"):
        sweep(tmp_path / "run", tiny.evaluator(), gpus_per_trial=900)
    # Room for as many as there are candidates left is enough, and each has that share of the memory.
    result, _ = sweep(tmp_path / "run", tiny.evaluator(), num=2, workers=1000)
    assert (result.done, result.failed) == (2, 0)


@pytest.mark.slow
def test_an_error_of_the_progress_callback_is_raised_after_a_clean_stop(tmp_path):
    def broken(**counts):
        if counts["done"] == 2:
            raise ValueError("terminal gone")

    settings = SweepSettings(num_candidates=9, sampler="random", workers=1)
    with pytest.raises(ValueError, match="terminal gone"):
        run_sweep(tiny.SPACE, tiny.evaluator(), tiny.costs(), settings, tmp_path / "run", None, broken)
    assert CandidateStore(tmp_path / "run" / "store").counts()["done"] == 2


def test_another_recipe_is_refused(tmp_path):
    done = {"outcome": "done", "latency_ms": 1, "num_params": 1, "metrics": {"latent_error": 1.0}}
    record = CandidateRecord(candidate="x", options={}, vector=(0,), trial="x", recipe_hash="aa", **done)
    CandidateStore(tmp_path / "run" / "store").append(record)
    with pytest.raises(UserError, match="evaluated with recipe 'aa', not 'bb'"):
        sweep(tmp_path / "run", tiny.evaluator(), num=3, recipe_hash="bb")


def test_a_run_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make"):
        sweep(tmp_path / "file", tiny.evaluator())


def test_an_infinite_prior_does_not_stop_the_sweep(tmp_path):
    """An option whose single swap failed has an infinite prior; its candidates are stored without one."""

    def broken(matrix):
        return np.where(np.asarray(matrix)[:, 0] == 0, np.inf, tiny.prior(matrix))

    settings = SweepSettings(num_candidates=6, sampler="random", num_warm_start=4, workers=1)
    try:
        result = run_sweep(tiny.SPACE, tiny.evaluator(0.01), tiny.costs(), settings, tmp_path / "run", broken)
    finally:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
    assert result.done == 6
    for record in CandidateStore(tmp_path / "run" / "store").records():
        assert (record.prior is None) == (record.vector[0] == 0)


def test_a_sweep_stops_what_cannot_reach_the_front_and_learns_from_it(tmp_path):
    log, run_dir = tmp_path / "log", tmp_path / "run"
    factory = tiny.evaluator_with_rungs(log=str(log))
    settings = {"early_stopping": "dominance", "stopping_after": 5, "stopping_risk": 0.3, "num_warm_start": 0}
    result, calls = sweep(run_dir, factory, num=24, workers=1, seed=5, **settings)
    records = CandidateStore(run_dir / "store").records()
    stopped = [r for r in records if r.outcome == "stopped"]
    assert (result.done + result.stopped, result.failed, result.stopped) == (24, 0, len(stopped))
    assert len(stopped) >= 1 and calls[-1]["stopped"] == len(stopped)
    # Evaluations end where it was decided, and nowhere else.
    steps = {}
    for line in log.read_text().splitlines():
        steps.setdefault(line.split()[0], []).append(int(line.split()[1]))
    for r in records:
        assert steps[r.candidate] == [rung.steps for rung in r.rungs] + ([30] if r.outcome == "done" else [])
        assert [rung.metrics["latent_error"] for rung in r.rungs] == [
            tiny.curve_of(r.options, s.steps) for s in r.rungs
        ]
    # One worker: the same decisions come out of the store, in its order, and each is right.
    stopper, measured = Stopper(StoppingSettings("dominance", 0.3, 5)), np.empty((0, 3))
    for r in records:
        costs = (r.latency_ms, float(r.num_params))
        points = [Point(s.steps, s.metrics["latent_error"], s.metrics["latent_error_se"]) for s in r.rungs]
        verdicts = [stopper.decide(r.candidate, points[: i + 1], costs, measured) for i in range(len(points))]
        assert [v.stop for v in verdicts] == [False] * (len(points) - 1) + [r.outcome == "stopped"]
        final = np.array([tiny.error_of(r.options), *costs])
        if r.outcome == "stopped":
            assert r.reason == verdicts[-1].reason and not r.metrics and r.seconds > 0
            assert r.predicted_low <= r.predicted_error == verdicts[-1].forecast.median <= r.predicted_high
            assert ((measured <= final).all(axis=1) & (measured < final).any(axis=1)).any()
        else:
            stopper.finished(r.candidate, points, costs, r.metrics["latent_error"])
            measured = np.vstack([measured, final])
            measured = measured[front(measured)]
    # For samplers it is an expected value, for the front nothing.
    trials = {t.user_attrs["candidate"]: t for t in study_of(run_dir).get_trials(states=(TrialState.COMPLETE,))}
    for r in stopped:
        assert trials[r.candidate].values == [r.predicted_error, r.latency_ms, r.num_params]
        assert trials[r.candidate].user_attrs["forecast"] == [[r.predicted_low, r.predicted_high]]
    table = pq.read_table(export_tables(run_dir)[0]).to_pylist()
    assert sum(row["on_front"] for row in table) == len(measured) and result.front_size == len(measured)
    by_id = {row["id"]: row for row in table}
    for r in stopped:
        row = by_id[r.candidate]
        assert (row["outcome"], row["on_front"], row["predicted_error"]) == ("stopped", False, r.predicted_error)
        assert row[f"latent_error@{r.rungs[-1].steps}"] == r.rungs[-1].metrics["latent_error"]
    # Going on repeats none of both.
    result, _ = sweep(run_dir, factory, num=28, workers=2, **settings | {"sampler": "ehvi"})
    assert result.done + result.stopped == 28
    first = [line.split()[0] for line in log.read_text().splitlines() if line.endswith(" 0")]
    assert len(first) == len(set(first)) == 28


def test_rungs_without_stopping_and_rungs_that_fail(tmp_path):
    points, log = run_points(tmp_path), tmp_path / "log"
    special = dict(zip(points, ["nan 10", "raise 20", "end 20", "raise 0"], strict=True))
    factory = tiny.evaluator_with_rungs(log=str(log), special=special)
    result, _ = sweep(tmp_path / "run", factory, num=5, workers=1)
    assert (result.done, result.stopped, result.failed) == (5, 0, 4)
    records = {r.candidate: r for r in CandidateStore(tmp_path / "run" / "store").records()}
    found = [(records[p].reason, [rung.steps for rung in records[p].rungs]) for p in points]
    assert found == [
        ("latent_error is nan", [0]),
        ("RuntimeError: out of luck", [0, 10]),
        ("ValueError: the evaluator ended with a rung; after its rungs it must give all metrics", [0, 10]),
        ("RuntimeError: out of luck", []),
    ]
    whole = [r for r in records.values() if r.outcome == "done"]
    assert all([rung.steps for rung in r.rungs] == [0, 10, 20] for r in whole)
    assert all(0 < rung.seconds <= r.seconds for r in whole for rung in r.rungs)
    # Going on with successive halving; what is stored counts.
    result, _ = sweep(tmp_path / "run", factory, num=11, workers=1, early_stopping="moasha", reduction_factor=6)
    assert result.done + result.stopped == 11 and result.stopped >= 2
