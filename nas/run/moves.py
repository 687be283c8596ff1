"""How candidates stand to each other on two devices: ranks and fronts, and what of it is within the intervals.

Two candidates *tie* on a device where the latency of one lies within the 90 % interval of the other. What makes all
predictions of a device wrong together (its clock, its compiler) is part of those intervals and cancels in a
difference, so that a tie is called rather too often than too seldom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nas.pareto import front

if TYPE_CHECKING:
    from latency_predictors.models.base import Prediction

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Ranks = NDArray[np.int64]

# Pairs are gone through in blocks of so many entries: a store of 20,000 candidates has 4e8 pairs.
_BLOCK = 2**22


@dataclass(frozen=True)
class Standing:
    """N candidates on one device; every array has shape (N,).

    Attributes:
        rank: 1 is the fastest; equal latencies share the lowest.
        rank_low, rank_high: the ranks that it could have if ties were broken for or against it.
        on_front: whether no other is at least as good in (error, latency, parameters) and better in one.
        surely_on: no other could dominate it, however ties are broken.
        surely_off: one dominates it however ties are broken.
    """

    rank: Ranks
    rank_low: Ranks
    rank_high: Ranks
    on_front: Mask
    surely_on: Mask
    surely_off: Mask


def standing(error: Floats, num_params: Floats, latency: Prediction) -> Standing:
    """Rank and front membership of N candidates by their errors (N,), parameters (N,) and latencies; O(N^2)."""
    num = len(error)
    faster, slower = np.zeros(num, np.int64), np.zeros(num, np.int64)
    surely_on, surely_off = np.ones(num, bool), np.zeros(num, bool)
    for rows in _blocks(num):
        own = np.arange(num)[rows]
        is_faster = _surely_faster(latency, rows)
        is_slower = _surely_slower(latency, rows)
        faster[rows], slower[rows] = is_faster.sum(1), is_slower.sum(1)
        no_worse = (error[None] <= error[rows, None]) & (num_params[None] <= num_params[rows, None])
        no_worse[np.arange(len(own)), own] = False
        surely_off[rows] = (no_worse & is_faster).any(1)
        surely_on[rows] = ~(no_worse & ~is_slower).any(1)
    values = np.stack([error, latency.latency_ms, num_params], axis=1)
    return Standing(
        rank=ranks(latency.latency_ms),
        rank_low=1 + faster,
        rank_high=num - slower,
        on_front=front(values),
        surely_on=surely_on,
        surely_off=surely_off,
    )


def ranks(latency_ms: Floats) -> Ranks:
    """Ranks (N,) from 1, the fastest; equal ones share the lowest."""
    ordered = np.sort(latency_ms)
    return np.asarray(1 + np.searchsorted(ordered, latency_ms, side="left"), dtype=np.int64)


def front_change_is_tie(here: Standing, there: Standing) -> Mask:
    """Whether (N,) entering or leaving the front could be due to ties alone, on either device.

    False where the front membership is the same on both.
    """
    enters = there.on_front & ~here.on_front & ~(there.surely_on & here.surely_off)
    leaves = here.on_front & ~there.on_front & ~(here.surely_on & there.surely_off)
    return enters | leaves


def rank_change_is_tie(here: Standing, there: Standing) -> Mask:
    """Whether (N,) a rank that differs could be the same on both devices. False for equal ranks."""
    overlap = (here.rank_low <= there.rank_high) & (there.rank_low <= here.rank_high)
    return (here.rank != there.rank) & overlap


def kendall(first: Floats, second: Floats) -> float | None:
    """Kendall's tau-b of two latencies (N,); None for fewer than two candidates or a constant side."""
    from scipy.stats import kendalltau

    if len(first) < 2:
        return None
    tau = float(kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


def _blocks(num: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(num, 1))
    return (slice(start, start + step) for start in range(0, num, step))


def _surely_faster(latency: Prediction, rows: slice) -> Mask:
    """(rows, N): whether the column's candidate is faster than the row's, and they do not tie."""
    ms, low, high = latency.latency_ms, latency.low_ms, latency.high_ms
    return np.asarray((ms[None] < low[rows, None]) & (high[None] < ms[rows, None]))


def _surely_slower(latency: Prediction, rows: slice) -> Mask:
    """(rows, N): whether the column's candidate is slower than the row's, and they do not tie."""
    ms, low, high = latency.latency_ms, latency.low_ms, latency.high_ms
    return np.asarray((ms[None] > high[rows, None]) & (low[None] > ms[rows, None]))
