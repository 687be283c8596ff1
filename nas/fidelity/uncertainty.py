"""How far a measure would move with other samples: intervals from per-sample values and by the jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

#: Groups of the jackknife: enough for a t quantile near the normal one, few enough to cost little.
NUM_GROUPS = 16


class Jackknife(NamedTuple):
    """A statistic, its standard error, and its value with the bias of order 1 / N taken off."""

    value: float
    standard_error: float
    corrected: float
    degrees: int

    def interval(self, level: float = 0.95, least: float = -math.inf) -> Interval:
        """value +- t standard errors, cut at `least`: where the *expectation at this N* lies; the bias is not in it."""
        half = _t(level, self.degrees) * self.standard_error
        return max(self.value - half, least), self.value + half


def mean_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval | None:
    """Student's interval of the mean of values (N,) >= 0, cut at 0; None for fewer than two.

    Samples count as independent. Noised latents have evenly spread timesteps, so that theirs is rather too wide.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return None
    half = _t(level, len(x) - 1) * float(x.std(ddof=1)) / np.sqrt(len(x))
    return max(float(x.mean() - half), 0.0), float(x.mean() + half)


def paired_difference(first: npt.ArrayLike, second: npt.ArrayLike, level: float = 0.95) -> tuple[float, Interval]:
    """Mean of first - second, both (N,) on the same samples, and its interval.

    Candidates share noise and prompts, so that their difference is known far better than each by itself.

    Raises:
        ValueError: lengths differ, or are below 2.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(f"values of shapes {x.shape} and {y.shape}; needed are two of (N,) with N >= 2")
    d = x - y
    half = _t(level, len(d) - 1) * float(d.std(ddof=1)) / np.sqrt(len(d))
    return float(d.mean()), (float(d.mean() - half), float(d.mean() + half))


def jackknife(statistic: Callable[[npt.NDArray[np.intp]], float], num: int, groups: int = NUM_GROUPS) -> Jackknife:
    """Delete-a-group jackknife (Kott 2001) of a statistic of samples, given by their numbers.

    Sample i is in group i mod `groups`. A pair counts as one sample: the statistic takes both sides at the same
    numbers. Not the bootstrap, whose repeated samples look like less spread to a covariance.

    Args:
        statistic: value of the samples with these numbers (n,).
        num: number of samples.
        groups: at most this many groups.

    Raises:
        ValueError: fewer than four samples.
    """
    if num < 4:
        raise ValueError(f"{num} samples; the jackknife needs 4 or more")
    groups = min(groups, num // 2)
    every = np.arange(num)
    value = statistic(every)
    left_out = np.array([statistic(every[every % groups != group]) for group in range(groups)])
    error = float(np.sqrt((groups - 1) / groups * ((left_out - left_out.mean()) ** 2).sum()))
    return Jackknife(value, error, groups * value - (groups - 1) * float(left_out.mean()), groups - 1)


def _t(level: float, degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, degrees))
