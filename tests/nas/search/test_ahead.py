"""Proposals made ahead: in order, none twice, none left open."""

import importlib.util
import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.search import CandidateRecord, CandidateStore, SweepSettings
from nas.search.ahead import Ahead, num_ahead
from nas.search.pool import Pool
from nas.search.sampler import UnseenSampler, make_sampler
from nas.search.searcher import SweepSearcher
from nas.search.study import open_study, replay

_spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
tiny = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny)


@pytest.mark.parametrize(
    ("proposal_s", "evaluation_s", "workers", "expected"),
    [(None, 2, 4, 0), (1, None, 4, 0), (1, 2, 1, 0), (0.01, 2, 4, 0), (0.1, 2, 4, 1), (1, 2, 4, 2), (9, 2, 4, 4)],
)
def test_as_many_ahead_as_workers_finish_during_a_proposal(proposal_s, evaluation_s, workers, expected):
    assert num_ahead(proposal_s, evaluation_s, workers) == expected


def test_proposals_keep_their_order_and_their_errors():
    numbers = itertools.count()

    def propose():
        number = next(numbers)
        if number == 3:
            raise ValueError("three")
        return number

    ahead = Ahead(propose)
    assert ahead.proposal_s is None and ahead.take() == 0
    ahead.fill(3)
    assert len(ahead) == 3 and [ahead.take(), ahead.take()] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        ahead.take()
    ahead.fill(2)
    time.sleep(0.1)
    assert sorted([ahead.take(), *ahead.close()]) == [4, 5] and len(ahead) == 0 and ahead.proposal_s >= 0


class Slow(optuna.samplers.RandomSampler):
    """Thinks for a while."""

    def sample_relative(self, study, trial, search_space):
        time.sleep(0.02)
        return super().sample_relative(study, trial, search_space)


def test_a_sweep_with_proposals_ahead_repeats_and_leaves_nothing(tmp_path):
    costs = tiny.costs()
    settings = SweepSettings(num_candidates=30, workers=3)
    pool = Pool(tiny.SPACE, costs, settings)
    sampler = UnseenSampler(Slow(seed=0), tiny.SPACE, pool, 0)
    study = open_study(tmp_path, costs, sampler)
    store = CandidateStore(tmp_path / "store")
    searcher = SweepSearcher(tiny.SPACE, costs, settings, store, pool, study, sampler, None, None)
    evaluated, flying, names = [], [], map(str, itertools.count())
    most_ahead = 0
    for _ in range(200):
        name = next(names)
        config = searcher.suggest(name)
        if config == searcher.FINISHED:
            break
        if config is not None:
            flying.append(name)
            most_ahead = max(most_ahead, len(searcher._ahead))
            assert len(searcher.flights) <= 3
            continue
        name = flying.pop(0)
        record = searcher.flights[name].record
        # One in ten dies, and its candidate is tried once more.
        if len(evaluated) % 10 == 4 and record.candidate not in evaluated:
            evaluated.append(record.candidate)
            searcher.on_trial_complete(name, error=True)
            continue
        evaluated.append(record.candidate)
        done = {"outcome": "done", "metrics": {"latent_error": 0.1}, "seconds": 0.01}
        searcher.on_trial_complete(name, {"record": record.model_copy(update=done).model_dump_json()})
    searcher.interrupt()
    assert most_ahead == 3
    assert searcher.counts() == {"done": 30} == {k: v for k, v in store.counts().items() if v}
    again = {candidate for candidate, n in Counter(evaluated).items() if n > 1}
    assert len(set(evaluated)) == 30 and len(again) == len(evaluated) - 30 == searcher.deaths > 0
    assert Counter(t.state.name for t in study.trials) == {"COMPLETE": 30, "FAIL": len(again)}


def searcher_of(folder, num_candidates):
    """As `run_sweep` makes it, on the store and study that are there."""
    costs, settings = tiny.costs(), SweepSettings(num_candidates=num_candidates, workers=2)
    pool, store = Pool(tiny.SMALL, costs, settings), CandidateStore(folder / "store")
    pool.take_all(np.array([record.vector for record in store.latest()], np.int64).reshape(-1, 3))
    sampler = make_sampler("ehvi", tiny.SMALL, 0, pool, costs.known_objectives(pool.cost_bounds))
    study = open_study(folder, costs, sampler)
    sampler.queue.extend(replay(study, tiny.SMALL, store, costs))
    return SweepSearcher(tiny.SMALL, costs, settings, store, pool, study, sampler, None, None)


def test_no_candidate_is_lost_to_ctrl_c_while_it_is_evaluated(tmp_path):
    interrupted = []
    for _ in range(2):  # the second time before the first ones have come up again
        searcher = searcher_of(tmp_path, 6)
        assert searcher.suggest("a") and searcher.suggest("b")
        interrupted.append({flight.record.candidate for flight in searcher.flights.values()})
        searcher.interrupt()
    assert interrupted[0] == interrupted[1]  # they come first
    searcher, evaluated = searcher_of(tmp_path, 6), []
    while (config := searcher.suggest("c")) != searcher.FINISHED:
        record = CandidateRecord.model_validate_json(config["record"])
        evaluated.append(record.candidate)
        done = record.model_copy(update={"outcome": "done", "metrics": {"latent_error": 0.1}, "seconds": 0.01})
        searcher.on_trial_complete("c", {"record": done.model_dump_json()})
    assert set(evaluated[:2]) == interrupted[0] and len(set(evaluated)) == tiny.SMALL.num_candidates == 6


def test_an_interrupted_candidate_is_proposed_again_where_nothing_asks_for_it_first(tmp_path):
    searcher = searcher_of(tmp_path, 6)
    assert searcher.suggest("a") and searcher.suggest("b")
    searcher.interrupt()
    searcher = searcher_of(tmp_path, 6)
    searcher.sampler.queue.clear()
    assert sum(searcher.suggest("c") != searcher.FINISHED and bool(searcher.flights.pop("c")) for _ in range(6)) == 6
