"""Which evaluations end early: what a candidate may still become, or how it stands among the others, decides.

`dominance`: latency and parameters of a candidate are exact from the start, so that only its error can put it on the
front. It is stopped when even its *optimistic* final error (which the true one is below with probability `risk` at
most, all rungs together) is dominated, at exactly its costs, by a candidate that was measured. With error 0 nothing
would be dominated unless its costs are matched by a candidate of error 0; so no candidate is given up before its
first rung, and one whose error is below the floor of :mod:`nas.pareto` never is.

`moasha`: multi-objective asynchronous successive halving (Schmucker et al. 2021, arXiv 2106.12639, MO-ASHA): at every
rung a candidate goes on if it is among the best 1 / `reduction_factor` of those that reached it, ranked by
non-dominated sorting of (error at the rung, costs), within a layer by an epsilon-net (farthest point first). It
needs no forecast and bounds no loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nas.pareto import ERROR_FLOOR
from nas.search.learning_curves import Forecast, LearningCurves, Point

Floats = NDArray[np.float64]
EarlyStopping = Literal["none", "dominance", "moasha"]
EARLY_STOPPING: tuple[EarlyStopping, ...] = get_args(EarlyStopping)


@dataclass(frozen=True)
class StoppingSettings:
    """How evaluations are stopped."""

    policy: EarlyStopping = "none"
    risk: float = 0.05
    """Probability with which a candidate that belongs on the front may be stopped, over all its rungs."""
    least_curves: int = 8
    """Complete evaluations before the first is stopped by `dominance`."""
    reduction_factor: float = 3.0
    """One in so many goes on at each rung of `moasha`."""


@dataclass(frozen=True)
class Verdict:
    """What is decided at a rung."""

    stop: bool
    forecast: Forecast
    reason: str = ""


class Stopper:
    """Learns from finished evaluations and decides about running ones.

    Everything it knows follows from what it was told in that order, so that a store rebuilds it.
    """

    def __init__(self, settings: StoppingSettings) -> None:
        self.settings = settings
        self.curves = LearningCurves(settings.least_curves)
        self._reached: dict[int, dict[str, Floats]] = {}

    def reached(self, name: str, point: Point, costs: Sequence[float]) -> None:
        """A candidate reached a rung; known costs (K,)."""
        self._reached.setdefault(point.steps, {})[name] = np.array([point.error, *costs])

    def finished(self, name: str, rungs: Sequence[Point], costs: Sequence[float], final: float) -> None:
        """A candidate was evaluated to the end."""
        for point in rungs:
            self.reached(name, point, costs)
        self.curves.add(rungs, final)

    def decide(self, name: str, rungs: Sequence[Point], costs: Sequence[float], front: Floats) -> Verdict:
        """Whether to stop a candidate at the last of its rungs.

        Args:
            name: of the candidate.
            rungs: what was measured of it, by growing steps; at least one.
            costs: its known objectives (K,).
            front: (n, 1 + K) error and known objectives of the measured candidates that no other dominates.
        """
        last = rungs[-1]
        self.reached(name, last, costs)
        # Each of its rungs is another chance to be wrong.
        risk = self.settings.risk / max(1, self.curves.num_rungs)
        forecast = self.curves.forecast(last, risk)
        if self.settings.policy == "dominance":
            return self._by_dominance(last, costs, front, forecast)
        if self.settings.policy == "moasha":
            return self._by_rank(name, last, forecast)
        return Verdict(False, forecast)

    def _by_dominance(self, last: Point, costs: Sequence[float], front: Floats, forecast: Forecast) -> Verdict:
        if last.error <= ERROR_FLOOR or self.curves.known(last.steps) < self.settings.least_curves:
            return Verdict(False, forecast)
        by = dominating(np.array([forecast.optimistic, *costs]), front)
        if by is None:
            return Verdict(False, forecast)
        return Verdict(
            True,
            forecast,
            f"after {last.steps} steps its error is {last.error:.4g}, at the end {forecast.optimistic:.4g} at best "
            f"({forecast.median:.4g} expected); one that costs no more has {front[by, 0]:.4g}",
        )

    def _by_rank(self, name: str, last: Point, forecast: Forecast) -> Verdict:
        names = list(self._reached[last.steps])
        place = names.index(name)
        points = np.array([self._reached[last.steps][each] for each in names])
        kept = max(1, math.ceil(len(names) / self.settings.reduction_factor))
        if len(names) < self.settings.reduction_factor:
            return Verdict(False, forecast)
        rank = int(np.flatnonzero(ranked(points) == place)[0])
        if rank < kept:
            return Verdict(False, forecast)
        return Verdict(
            True,
            forecast,
            f"after {last.steps} steps its error is {last.error:.4g}; with its costs it is number {rank + 1} of "
            f"{len(names)}, the first {kept} go on",
        )


def dominating(point: Floats, front: Floats) -> int | None:
    """The row of `front` (n, objectives) with the least first objective among those that dominate `point`."""
    if not len(front):
        return None
    rows = np.flatnonzero((front <= point).all(axis=1) & (front < point).any(axis=1))
    return int(rows[np.argmin(front[rows, 0])]) if len(rows) else None


def ranked(points: Floats) -> NDArray[np.int64]:
    """Rows of points (n, objectives), best first: by layers of non-dominated ones, each as an epsilon-net.

    Of a layer, the point with the least error comes first, then always the one farthest from those taken (maximin over
    objectives scaled to [0, 1], the error in decades).
    """
    from nas.pareto import front

    scaled = points.copy()
    scaled[:, 0] = np.log10(np.maximum(scaled[:, 0], ERROR_FLOOR))
    low, span = scaled.min(axis=0), np.ptp(scaled, axis=0)
    scaled = (scaled - low) / np.where(span > 0, span, 1.0)
    order: list[int] = []
    left = np.arange(len(points))
    while len(left):
        best = front(points[left])
        layer = left[best]
        left = left[~best]
        taken = [int(layer[np.argmin(points[layer, 0])])]
        distance = np.linalg.norm(scaled[layer] - scaled[taken[0]], axis=1)
        distance[layer == taken[0]] = -1.0
        while len(taken) < len(layer):
            row = int(np.argmax(distance))
            taken.append(int(layer[row]))
            distance = np.minimum(distance, np.linalg.norm(scaled[layer] - scaled[layer[row]], axis=1))
            distance[np.isin(layer, taken)] = -1.0
        order += taken
    return np.array(order, dtype=np.int64)
