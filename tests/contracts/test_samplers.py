"""What every sampler must do: propose only open candidates, all of them if asked often enough, repeatably."""

import numpy as np
import optuna
import pytest

from nas.search import KnownCosts, SweepSettings
from nas.search.pool import Pool
from nas.search.sampler import (
    SAMPLERS,
    ExhaustedError,
    check_sampler,
    distributions,
    make_sampler,
    params_of,
    vector_of,
)
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space


def installed(name):
    try:
        return check_sampler(name) == name
    except UserError:
        return False


NAMES = [pytest.param(n, marks=pytest.mark.skipif(not installed(n), reason=f"{n} is not installed")) for n in SAMPLERS]

SMALL = SearchSpace(
    name="small", options={"E1": ("RARA", "RA", "R"), "E2": ("RA", "R"), "deep": ("none",), "D1": ("RARA", "R")}
)
COSTS = KnownCosts(latency_ms=lambda m: 9.0 - m.sum(axis=1), num_params=lambda m: 100 - 10 * m[:, 0] - m[:, -1])


def error_of(vector):
    return 0.01 + 0.1 * float(vector[0]) + 0.03 * float(vector[-1])


def drive(name, space, num, seed=0, settings=None, ask_ahead=1):
    """Evaluate `num` candidates; returns their vectors in order."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pool = Pool(space, COSTS, settings or SweepSettings())
    sampler = make_sampler(name, space, seed, pool, COSTS.known_objectives(pool.cost_bounds))
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    seen, waiting = [], []
    while len(seen) < num:
        trial = study.ask(distributions(space))
        vector = vector_of(space, trial.params)
        assert pool.is_open(vector)
        pool.take(vector)
        seen.append(vector)
        waiting.append((trial, vector))
        if len(waiting) >= ask_ahead:
            trial, vector = waiting.pop(0)
            if len(seen) % 7 == 0:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, [error_of(vector), *(float(v) for v in COSTS.matrix(vector[None])[0])])
    return [tuple(int(i) for i in v) for v in seen], study


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_once_then_exhausted(name):
    seen, study = drive(name, SMALL, SMALL.num_candidates, ask_ahead=2)
    assert set(seen) == {tuple(row) for row in SMALL.enumerate().tolist()} and len(seen) == len(set(seen))
    with pytest.raises(ExhaustedError):
        study.ask(distributions(SMALL))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_proposes_the_same(name):
    space = load_space("nanosd")
    first = drive(name, space, 12, seed=3)[0]
    assert first == drive(name, space, 12, seed=3)[0]
    assert first[:6] != drive(name, space, 6, seed=4)[0]


@pytest.mark.parametrize("name", NAMES)
def test_limits_are_never_crossed(name):
    limits = SweepSettings(max_latency_ms=6, max_params=95)
    allowed = [tuple(v) for v in SMALL.enumerate().tolist() if 9 - sum(v) <= 6 and 100 - 10 * v[0] - v[-1] <= 95]
    seen, _ = drive(name, SMALL, len(allowed), settings=limits)
    assert sorted(seen) == sorted(allowed)


def test_a_duplicate_goes_to_the_nearest_open_candidate():
    pool = Pool(SMALL, COSTS, SweepSettings())
    start = np.array([0, 0, 0, 0])
    rng = np.random.default_rng(0)
    taken, distances = {(0, 0, 0, 0)}, []
    pool.take(start)
    while not pool.exhausted:
        found = pool.nearest(start, rng)
        best = min((v != start).sum() for v in SMALL.enumerate() if tuple(v.tolist()) not in taken)
        assert (found != start).sum() == best
        distances.append(best)
        taken.add(tuple(found.tolist()))
        pool.take(found)
    assert distances == sorted(distances) and len(taken) == SMALL.num_candidates
    assert pool.nearest(start, rng) is None


def test_a_space_too_large_for_a_table_is_walked():
    widths = ("R", *(f"R_w0.{i}" for i in range(1, 10)))
    space = SearchSpace(name="large", options={f"E{i + 1}": widths for i in range(8)})
    pool = Pool(space, COSTS, SweepSettings(max_latency_ms=5))
    rng = np.random.default_rng(0)
    start = np.zeros(8, dtype=np.int64)  # 9 ms: four steps away from the limit
    found = pool.nearest(start, rng)
    assert pool.is_open(found) and COSTS.latency_ms(found[None])[0] <= 5
    pool.take(found)
    again = pool.nearest(found, rng)
    assert (again != found).sum() == 1 and pool.is_open(again)
    pool.release(found)
    assert pool.is_open(found) and pool.num_open is None


def test_the_queue_comes_first_and_skips_what_is_taken():
    pool = Pool(SMALL, COSTS, SweepSettings())
    sampler = make_sampler("random", SMALL, 0, pool)
    wanted = [np.array([2, 1, 0, 1]), np.array([1, 1, 0, 1])]
    pool.take(wanted[0])
    sampler.queue.extend(wanted)
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    assert study.ask(distributions(SMALL)).params == params_of(SMALL, wanted[1]) == {"E1": "RA", "E2": "R", "D1": "R"}


def test_params_round_trip():
    for vector in SMALL.enumerate():
        assert (vector_of(SMALL, params_of(SMALL, vector)) == vector).all()


def test_unknown_sampler_and_impossible_limits_are_one_line():
    with pytest.raises(UserError, match="unknown sampler 'cma'; legal are random, nsga2, tpe, gp, qlognehvi, ehvi"):
        make_sampler("cma", SMALL, 0, Pool(SMALL, COSTS, SweepSettings()))
    with pytest.raises(UserError, match=r"max_latency_ms = 3; it reaches from 5 to 9 ms and from 79 to 100 parameters"):
        Pool(SMALL, COSTS, SweepSettings(max_latency_ms=3))
    with pytest.raises(UserError, match="no finite predicted latency"):
        Pool(SMALL, KnownCosts(lambda m: m[:, 0] * np.nan, lambda m: m[:, 0]), SweepSettings())
