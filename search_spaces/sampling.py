"""Sampling within budgets, mutation and crossover: candidates in, candidates out, as index matrices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from search_spaces.budgets import BudgetedSampler, Cost, unmet
from search_spaces.errors import UserError
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

    Raises:
        UserError: a budget without a cost, or that no candidate meets (for additive costs that is certain; for others,
            none was found), with what can be reached.
    """
    for name in budgets:
        if name not in costs:
            raise UserError(f"budget {name!r} has no cost; legal are {', '.join(costs) or 'none'}")
        if np.isnan(budgets[name]):
            raise UserError(f"budget {name} is nan; give the largest legal value")
    limits = {name: float(value) for name, value in budgets.items() if value != np.inf}
    asked = {name: costs[name] for name in limits}
    if space.num_candidates <= max_enumerated:
        return _from_list(space, asked, limits, rng, num)
    return BudgetedSampler(space, asked, limits).sample(rng, num)


def mutate(space: SearchSpace, matrix: Indices, rng: np.random.Generator, rate: float) -> Indices:
    """Mutated candidates (N, decisions), canonical: each decision changes its value with probability ``rate``.

    A changed decision may leave the network as it is (the feed-forward width of a word without attention); at least
    one decision of every candidate changes where any is free.
    """
    if not 0 < rate <= 1:
        raise UserError(f"mutation rate {rate:g} is no probability; legal are rates above 0 and up to 1")
    columns, sizes = np.array(matrix, dtype=np.int64), np.array(space.sizes)
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
        values = {name: np.asarray(costs[name](matrix)) for name in limits}
        good = {name: values[name] <= limit for name, limit in limits.items()}
        for name in limits:
            others = np.logical_and.reduce([good[other] for other in limits if other != name], initial=True)
            least[name] = min(least[name], float(values[name].min()))
            beside[name] = min(beside[name], float(np.min(values[name], where=others, initial=np.inf)))
        within.append(ranks[np.logical_and.reduce([*good.values()], axis=0)] if limits else ranks)
    legal = np.concatenate(within)
    if not len(legal):
        met = {name: value for name, value in beside.items() if value < np.inf}
        raise unmet(space, limits, least, met)
    return space.unrank(rng.choice(legal, size=num))
