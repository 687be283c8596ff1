"""Sampling within budgets, mutation and crossover: candidates in, candidates out, as index matrices."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from search_spaces.budgets import SOLVER_SECONDS, BudgetedSampler, Cost, Least, unmet
from search_spaces.errors import UserError, shown
from search_spaces.space import Indices, SearchSpace

MAX_ENUMERATED = 1_000_000
_CHUNK = 100_000


def sample_within(
    space: SearchSpace,
    costs: Mapping[str, Cost],
    budgets: Mapping[str, float],
    rng: np.random.Generator,
    num: int,
    max_enumerated: int = MAX_ENUMERATED,
    solver_seconds: float = SOLVER_SECONDS,
) -> Indices:
    """Candidates (num, decisions), canonical, each cost at most its budget, uniform over those that are.

    - Spaces of up to ``max_enumerated`` candidates are listed: exact, independent draws.
    - Larger ones: costs that add up over stages (for a given number of steps) are counted by dynamic programming,
      which gives exact, independent draws (:mod:`search_spaces.bounded_counts`); what other costs forbid is rejected.
    - Where less than one draw in a thousand survives that, Gibbs sampling in parallel chains goes on from candidates
      within all budgets: each is within, uniform in the long run, and near ones of a chain resemble each other.

    Args:
        costs: by name; vectorised over candidates. Those without a budget are not asked.
        budgets: largest legal value by name.
        num: how many; drawn with replacement.
        solver_seconds: how long, in all, a solver may look for a first candidate where drawing finds none.

    Raises:
        UserError: a budget without a cost or that is no number, or budgets that no candidate meets, with what can be
            reached. Where the space is not listed, that is certain only if the costs that add up rule it out; else
            the error says that none was found, and why that is not certain (the solver's time, or costs that do not
            add up).
    """
    for name in budgets:
        if name not in costs:
            raise UserError(f"budget {shown(name)} has no cost; legal are {', '.join(costs) or 'none'}")
    if not _is_whole(num) or num < 0:
        raise UserError(f"num is {shown(num)}; legal are whole numbers from 0")
    limits = {name: limit for name, value in budgets.items() if (limit := _limit(name, value)) != np.inf}
    asked = {name: costs[name] for name in limits}
    if space.num_candidates <= max_enumerated:
        return _from_list(space, asked, limits, rng, num)
    return BudgetedSampler(space, asked, limits, solver_seconds).sample(rng, num)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral)


def _limit(name: str, value: object) -> float:
    try:
        limit = float(value) if isinstance(value, Real) else np.nan
    except OverflowError:  # Python's integers have no end
        limit = np.nan
    if np.isnan(limit) or limit == -np.inf:
        raise UserError(f"budget {name} is {shown(value)}; give the largest legal value, a number, or inf for none")
    return limit


def mutate(space: SearchSpace, matrix: Indices, rng: np.random.Generator, rate: float) -> Indices:
    """Mutated candidates (N, decisions), canonical: each decision changes its value with probability ``rate``.

    A changed decision may leave the network as it is (the feed-forward width of a word without attention); at least
    one decision of every candidate changes where any is free.
    """
    if not 0 < rate <= 1:
        raise UserError(f"mutation rate {rate:g} is no probability; legal are rates above 0 and up to 1")
    columns, sizes = space.checked(matrix).astype(np.int64), np.array(space.sizes)
    free = np.flatnonzero(sizes > 1)
    if not len(free) or not len(columns):
        return space.canonical(columns)
    changed = (rng.random(columns.shape) < rate) & (sizes > 1)
    idle = np.flatnonzero(~changed.any(axis=1))
    changed[idle, rng.choice(free, size=len(idle))] = True
    # A step of 1 to size - 1 around the circle of values reaches every other value equally often.
    steps = rng.integers(1, np.maximum(sizes, 2), size=columns.shape)
    return space.canonical(np.where(changed, (columns + steps) % sizes, columns))


def crossover(space: SearchSpace, a: Indices, b: Indices, rng: np.random.Generator) -> Indices:
    """Children (N, decisions) of parents a and b (N, decisions): each stage from either, by the toss of a coin.

    Uniform crossover over stages, not decisions: what a decision means hangs on the others of its stage.
    """
    first, second = space.stage_rows(a), space.stage_rows(b)
    return space.from_stage_rows(np.where(rng.random(first.shape) < 0.5, first, second))


def _from_list(
    space: SearchSpace, costs: Mapping[str, Cost], limits: Mapping[str, float], rng: np.random.Generator, num: int
) -> Indices:
    within: list[NDArray[np.int64]] = []
    least, beside = dict.fromkeys(limits, np.inf), dict.fromkeys(limits, np.inf)
    for start in range(0, space.num_candidates, _CHUNK):
        ranks = np.arange(start, min(start + _CHUNK, space.num_candidates))
        matrix = space.unrank(ranks)
        values = {name: np.asarray(costs[name](matrix), dtype=np.float64) for name in limits}
        good = {name: values[name] <= limit for name, limit in limits.items()}
        for name in limits:
            others = np.logical_and.reduce([good[other] for other in limits if other != name], initial=True)
            least[name] = min(least[name], float(values[name].min()))
            beside[name] = min(beside[name], float(np.min(values[name], where=others, initial=np.inf)))
        within.append(ranks[np.logical_and.reduce([*good.values()], axis=0)] if limits else ranks)
    legal = np.concatenate(within)
    if not len(legal):
        met = {name: Least(value) for name, value in beside.items() if value < np.inf}
        raise unmet(space, limits, {name: Least(value) for name, value in least.items()}, met)
    return space.unrank(rng.choice(legal, size=num))
