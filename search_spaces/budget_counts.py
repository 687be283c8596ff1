"""Certain bounds on how many candidates of a space of any size stay within a budget of a cost that adds up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BUCKETS = 65_536
_TOLERANCE = 1e-9  # of the budget: rounding of floating-point sums must lose no combination


def count_within(costs: Sequence[NDArray[np.floating] | NDArray[np.integer]], budget: float) -> tuple[float, float]:
    """Least and largest possible number of combinations of one option a stage whose summed cost is within a budget.

    Costs above each stage's cheapest are rounded to whole buckets, up for the lower bound and down for the upper
    one, and the combinations counted by dynamic programming (Dyer, "Approximate counting by dynamic programming",
    STOC 2003). The bounds are certain, but for float64 counts beyond 2^53.

    Args:
        costs: per stage (options,).
        budget: largest legal sum.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in costs]
    slack = budget - sum(float(table.min()) for table in tables)
    tolerance = _TOLERANCE * max(abs(budget), 1.0)
    if slack < -tolerance:
        return 0.0, 0.0
    above = [table - table.min() for table in tables]
    if slack <= tolerance:
        cheapest = float(np.prod([np.count_nonzero(extra <= tolerance) for extra in above], dtype=np.float64))
        return cheapest, cheapest
    shares = [np.minimum(extra / slack, 2.0) * _BUCKETS for extra in above]
    return _count([np.ceil(share) for share in shares]), _count([np.floor(share * (1 - 1e-9)) for share in shares])


def _count(buckets: Sequence[NDArray[np.float64]]) -> float:
    ways = np.zeros(_BUCKETS + 1)
    ways[0] = 1.0
    for stage in buckets:
        after = np.zeros_like(ways)
        for step, number in zip(*np.unique(stage.astype(np.int64), return_counts=True), strict=True):
            if step <= _BUCKETS:
                after[step:] += number * ways[: len(ways) - step]
        ways = after
    return float(ways.sum())
