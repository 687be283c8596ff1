"""The study is brought up to the store after any kind of stop; no Ray needed."""

import importlib.util
import os
import time
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.search import CandidateRecord, CandidateStore, SweepSettings
from nas.search.decisions import distributions
from nas.search.pool import Pool
from nas.search.sampler import make_sampler
from nas.search.study import fail, finish, open_study, replay, start_attrs
from search_spaces.errors import UserError

_spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)

COSTS = tiny.costs()
TrialState = optuna.trial.TrialState


def opened(folder):
    return open_study(folder, COSTS, make_sampler("random", tiny.SPACE, 0, Pool(tiny.SPACE, COSTS, SweepSettings())))


def record(vector, outcome="done", trial=None, **more):
    candidate = tiny.SPACE.decode(vector)
    latency_ms, num_params = COSTS.matrix(np.array([vector]))[0]
    return CandidateRecord(
        candidate=candidate.id,
        options=candidate.options,
        vector=tuple(vector),
        outcome=outcome,
        latency_ms=latency_ms,
        num_params=int(num_params),
        metrics={"latent_error": 0.25} if outcome == "done" else {},
        trial=trial or candidate.id,
        **more,
    )


def brought_up(study, folder, records):
    """`replay` with a store of these records."""
    store = CandidateStore(folder / "store")
    store.extend(records)
    return replay(study, tiny.SPACE, store, COSTS)


def asked(study, vector, trial=None, attributes=True):
    """A trial that a driver has proposed and not finished."""
    study.sampler.queue.append(np.array(vector))
    trial_ = study.ask(distributions(tiny.SPACE))
    if attributes:
        for key, value in start_attrs(tiny.SPACE, record(vector, "failed", trial)).items():
            trial_.set_user_attr(key, value)
    return trial_


VECTORS = [(0, 0, 0, 0, 0, 0, n) for n in range(8)]


def test_replay_tells_adds_fails_and_names_what_was_interrupted(tmp_path):
    study = opened(tmp_path)
    known = asked(study, VECTORS[0])
    finish(study, known.number, record(VECTORS[0]), COSTS)
    asked(study, VECTORS[1])  # its worker stored a result that the driver never told
    asked(study, VECTORS[2])  # likewise, a failure
    asked(study, VECTORS[3])  # killed in the middle
    asked(study, VECTORS[4], attributes=False)  # killed right after the proposal
    study._storage.create_new_trial(study._study_id)  # killed during the proposal
    records = [
        record(VECTORS[0]),
        record(VECTORS[1]),
        record(VECTORS[2], "failed", reason="latent_error is nan"),
        record(VECTORS[5]),  # the study has never heard of it
        record(VECTORS[6], "failed", reason="RuntimeError"),
        record(VECTORS[7], "infeasible", reason="too slow"),
    ]
    study = opened(tmp_path)
    again = brought_up(study, tmp_path, records)
    assert sorted(tuple(v) for v in again) == [VECTORS[3], VECTORS[4]]
    study = opened(tmp_path)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert sorted(t.user_attrs["candidate"] for t in complete) == sorted(records[n].candidate for n in (0, 1, 3))
    assert all(t.values == [0.25, *COSTS.matrix(np.array([record_vector(t)]))[0]] for t in complete)
    reasons = sorted(t.user_attrs["reason"] for t in study.get_trials(states=(TrialState.FAIL,)))
    assert reasons == ["RuntimeError", "interrupted", "interrupted", "interrupted", "latent_error is nan"]
    # Once more changes nothing: what was interrupted is named until it has been evaluated.
    assert sorted(tuple(v) for v in brought_up(study, tmp_path, records)) == [VECTORS[3], VECTORS[4]]
    assert len(opened(tmp_path).trials) == 8
    assert brought_up(study, tmp_path, [record(VECTORS[3]), record(VECTORS[4], "failed")]) == []


def record_vector(trial):
    return tiny.SPACE.encode(tiny.SPACE.decode([0] * 7).from_id(trial.user_attrs["candidate"]))


def test_a_result_stored_after_its_trial_was_given_up_is_added(tmp_path):
    study = opened(tmp_path)
    fail(study, asked(study, VECTORS[0]).number, "interrupted")
    for _ in range(2):
        study = opened(tmp_path)
        assert brought_up(study, tmp_path, [record(VECTORS[0])]) == []
        assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_an_interrupted_candidate_that_was_done_otherwise_is_not_queued(tmp_path):
    study = opened(tmp_path)
    asked(study, VECTORS[0], trial="first")
    assert brought_up(study, tmp_path, [record(VECTORS[0], trial="second")]) == []


def test_what_was_deleted_from_the_store_is_evaluated_again(tmp_path):
    study = opened(tmp_path)
    for vector in VECTORS[:3]:
        finish(study, asked(study, vector).number, record(vector, "failed" if vector == VECTORS[1] else "done"), COSTS)
    study = opened(tmp_path)
    again = brought_up(study, tmp_path, [record(VECTORS[0])])
    assert [tuple(vector) for vector in again] == VECTORS[1:3] and len(study.trials) == 3


def test_a_torn_line_and_a_stale_lock_are_removed(tmp_path):
    study = opened(tmp_path)
    finish(study, asked(study, VECTORS[0]).number, record(VECTORS[0]), COSTS)
    with open(tmp_path / "study.log", "a") as file:
        file.write('{"op_code": 4, "wor')
    os.symlink("nothing", tmp_path / "study.log.lock")
    start = time.monotonic()
    study = opened(tmp_path)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE]
    finish(study, asked(study, VECTORS[1]).number, record(VECTORS[1]), COSTS)
    assert time.monotonic() - start < 20  # Optuna alone would wait 30 s for the lock
    assert len(opened(tmp_path).trials) == 2
    assert not (tmp_path / "study.log.damaged").exists()


@pytest.mark.parametrize("rubbish", ["rubbish", '{"op_code": 99}', "[1"])
@pytest.mark.parametrize("at_end", [False, True])
def test_a_damaged_journal_is_set_aside_and_made_anew(tmp_path, rubbish, at_end):
    study = opened(tmp_path)
    finish(study, asked(study, VECTORS[0]).number, record(VECTORS[0]), COSTS)
    journal = tmp_path / "study.log"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines, rubbish] if at_end else [*lines[:3], rubbish, *lines[3:]]) + "\n")
    study = opened(tmp_path)
    brought_up(study, tmp_path, [record(VECTORS[0])])
    assert [t.user_attrs["candidate"] for t in opened(tmp_path).trials] == [record(VECTORS[0]).candidate]
    assert (tmp_path / "study.log.damaged").exists()


def test_other_objectives_are_refused(tmp_path):
    opened(tmp_path)
    sampler = optuna.samplers.RandomSampler()
    other = tiny.costs()
    other = type(other)(other.latency_ms, other.num_params, error="tafid")
    with pytest.raises(UserError, match="has objectives latent_error, latency_ms, num_params, not tafid"):
        open_study(tmp_path, other, sampler)
