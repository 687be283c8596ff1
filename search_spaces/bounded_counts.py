"""Counting and sampling combinations whose costs, summed over stages, stay within budgets.

One option is taken from every stage, its cost vector is added, and each sum must stay within its budget: a
knapsack with a choice per stage. With the costs rounded down to whole buckets, dynamic programming counts the
combinations that stay within the budgets, and by going through its tables draws from them uniformly. Rounding down
keeps every combination that is truly within, so rejecting the few that are not leaves exact uniform samples.

Source: Dyer, "Approximate counting by dynamic programming" (STOC 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Buckets a budget by the number of budgets: what their product allows in time and memory.
_BUCKETS = {0: 1, 1: 4096, 2: 128, 3: 32, 4: 16}
MAX_BUDGETS = max(_BUCKETS)
_AT_ONCE = 4096
_TOLERANCE = 1e-9  # of a budget: rounding of floating-point sums must lose no combination


@dataclass(frozen=True)
class BoundedCounts:
    """Combinations of one option a stage, counted with rounded costs.

    Attributes:
        buckets: per stage (options, budgets) whole buckets that an option takes above the stage's cheapest.
        tables: per stage, and one after the last, the number of ways to go on from that stage on, by the buckets
            that are left of each budget.
    """

    buckets: tuple[NDArray[np.int64], ...]
    tables: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, costs: Sequence[NDArray[np.float64]], budgets: NDArray[np.float64]) -> BoundedCounts:
        """Count.

        Args:
            costs: per stage (options, budgets).
            budgets: (budgets,), at most :data:`MAX_BUDGETS` of them.
        """
        num_buckets = _BUCKETS[len(budgets)]
        least = sum((table.min(axis=0) for table in costs), start=np.zeros(len(budgets)))
        tolerance = _TOLERANCE * np.maximum(np.abs(budgets), np.abs(least))
        slack = budgets - least + tolerance
        # The share of what a budget leaves above the cheapest candidate, not of the budget: tight ones stay sharp.
        # Where nothing is left, whatever costs more than the cheapest is too much.
        above = [table - table.min(axis=0) for table in costs]
        shares = [np.divide(extra, slack, out=np.where(extra > 0, 2.0, 0.0), where=slack > 0) for extra in above]
        buckets = [np.floor(np.minimum(share, 2) * num_buckets).astype(np.int64) for share in shares]
        tables = [np.full((num_buckets + 1,) * len(budgets), float((slack >= 0).all()))]
        for stage in reversed(buckets):
            tables.append(_ways(tables[-1], stage, num_buckets))
        return cls(tuple(buckets), tuple(reversed(tables)))

    @property
    def total(self) -> float:
        """Number of combinations within the rounded budgets: at least as many as are truly within."""
        return float(self.tables[0].flat[-1])

    def sample(self, rng: np.random.Generator, num: int) -> NDArray[np.int64]:
        """Option numbers (num, stages), uniform and independent over the combinations that :attr:`total` counts."""
        parts = [self._sample(rng, min(_AT_ONCE, num - start)) for start in range(0, num, _AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.buckets)), dtype=np.int64)

    def _sample(self, rng: np.random.Generator, num: int) -> NDArray[np.int64]:
        shape = np.array(self.tables[0].shape, dtype=np.int64)
        strides = np.array([np.prod(shape[i + 1 :]) for i in range(len(shape))], dtype=np.int64)
        left = np.tile(shape - 1, (num, 1))
        rows = np.empty((num, len(self.buckets)), dtype=np.int64)
        for stage, (taken, ways) in enumerate(zip(self.buckets, self.tables[1:], strict=True)):
            after = left[:, None, :] - taken[None, :, :]
            fits = (after >= 0).all(axis=2)
            index = np.maximum(after, 0) @ strides
            chances = np.cumsum(np.where(fits, ways.ravel()[index], 0.0), axis=1)
            # Below the last sum by more than rounding: the option found always has ways to go on.
            drawn = rng.random(num) * chances[:, -1] * (1 - 1e-12)
            rows[:, stage] = (chances <= drawn[:, None]).sum(axis=1)
            left -= taken[rows[:, stage]]
        return rows


def _ways(after: NDArray[np.float64], taken: NDArray[np.int64], num_buckets: int) -> NDArray[np.float64]:
    ways = np.zeros_like(after)
    for step, number in zip(*np.unique(taken, axis=0, return_counts=True), strict=True):
        if (step <= num_buckets).all():
            into = tuple(slice(s, None) for s in step)
            ways[into] += number * after[tuple(slice(0, num_buckets + 1 - s) for s in step)]
    return ways
