"""What a candidate's error will be at the end of its evaluation, from what it is on the way.

log10(final) = a + b log10(error at the rung) + noise, with one line for every rung, learned from the candidates of this
run that were evaluated to the end: Bayesian linear regression with a conjugate prior (Gelman et al. 2013, section
14.2), whose prediction is a Student t distribution: wide while few are known, and wider far from where they were. Both
logarithms make a power law e(t) ~ c t^-p a line, whatever p is.

Which candidates were evaluated to the end depends on their errors at rungs and on their costs, not on how they would
have gone on; so those that were stopped leave no gap in what the line says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.pareto import ERROR_FLOOR

Floats = NDArray[np.float64]

# In units of the noise: the line's level is known within ten of them, and its slope is near 1.
_PRECISION = np.array([0.01, 0.1])
# The noise is about a tenth of a decade, as if that had been seen once.
_NOISE, _NUM_NOISE = 0.1, 1.0


@dataclass(frozen=True)
class Forecast:
    """A final error that is not known yet."""

    median: float
    low: float
    """5 % quantile."""
    high: float
    """95 % quantile."""
    optimistic: float
    """What it is below only with the probability that was asked for."""


@dataclass(frozen=True)
class Point:
    """What was measured at one rung."""

    steps: int
    error: float
    standard_error: float | None = None


class LearningCurves:
    """The curves of the candidates that were evaluated to the end.

    Args:
        least: complete curves that a forecast needs.
    """

    def __init__(self, least: int = 8) -> None:
        self.least = least
        self._seen: dict[int, list[tuple[float, float, float]]] = {}

    @property
    def num_rungs(self) -> int:
        """Different rungs seen."""
        return len(self._seen)

    def add(self, rungs: Sequence[Point], final: float) -> None:
        """One candidate evaluated to the end, with its errors on the way."""
        for point in rungs:
            row = (_log(point.error), _log(final), _relative_variance(point))
            self._seen.setdefault(point.steps, []).append(row)

    def known(self, steps: int) -> int:
        """Complete curves with a rung at `steps`."""
        return len(self._seen.get(steps, ()))

    def forecast(self, point: Point, risk: float) -> Forecast:
        """The final error of a candidate from its last rung.

        Args:
            point: its last rung.
            risk: probability with which the final error may be below `optimistic`.

        Returns:
            With fewer complete curves than `least`, `optimistic` is 0: anything may happen.
        """
        from scipy.stats import t

        rows = np.array(self._seen.get(point.steps, ())).reshape(-1, 3)
        x, z = rows[:, 0], rows[:, 1] - rows[:, 0]  # relative to a line of slope 1
        center = float(x.mean()) if len(x) else 0.0
        design = np.stack([np.ones(len(x)), x - center], axis=1)
        precision = design.T @ design + np.diag(_PRECISION)
        weights = np.linalg.solve(precision, design.T @ z)
        freedom = _NUM_NOISE + len(x)
        squares = _NUM_NOISE * _NOISE**2 + float(z @ z - weights @ precision @ weights)
        noise = max(squares, 1e-12) / freedom
        own = np.array([1.0, _log(point.error) - center])
        spread = noise * (1 + float(own @ np.linalg.solve(precision, own)))
        # A rung measured with more noise than those the line was learned from says less.
        usual = float(rows[:, 2].mean()) if len(x) else 0.0
        scale = math.sqrt(spread + max(0.0, _relative_variance(point) - usual))
        mean = _log(point.error) + float(own @ weights)
        low, high, bound = (float(q) for q in t.ppf((0.05, 0.95, risk), freedom))
        if len(x):
            # Student's t is symmetric, curves need not be: nobody is trusted to do worse than anyone has done better.
            bound = min(bound, float((z - design @ weights).min()) / math.sqrt(noise))
        return Forecast(
            median=10**mean,
            low=10 ** (mean + low * scale),
            high=10 ** (mean + high * scale),
            optimistic=10 ** (mean + bound * scale) if len(x) >= self.least else 0.0,
        )


def points_of(rungs: Sequence[tuple[int, Mapping[str, float]]], error: str) -> list[Point]:
    """(steps, metrics) as points; metrics may have the standard error of `error` as `<error>_se`."""
    return [Point(steps, metrics[error], metrics.get(f"{error}_se")) for steps, metrics in rungs if error in metrics]


def _log(error: float) -> float:
    return math.log10(max(error, ERROR_FLOOR))


def _relative_variance(point: Point) -> float:
    """Of log10(error), from the standard error."""
    if not point.standard_error or point.error <= 0:
        return 0.0
    return float((point.standard_error / (point.error * math.log(10))) ** 2)
