"""Non-dominated sets and hypervolume, all objectives minimised.

**Reference rule.** Objectives have units that cannot be multiplied, so they are scaled first
(:class:`ObjectiveScale`): 0 is the best value possible, 1 the *nadir*, the worst value there is. The error (objective
0) is scaled in decades, from ``ERROR_FLOOR`` (a thousandth of the teacher's variance: below it candidates cannot be
told apart) to the worst error evaluated; a front of errors spans orders of magnitude, and one useless candidate must
not drown the rest. Costs are scaled linearly, from the cheapest to the dearest candidate of the whole search space,
which are known beforehand. The reference point is 1.1 in every scaled objective, so that the extremes of the front
count too; the hypervolume is given as a share of the box between 0 and the reference, in [0, 1).

With this rule the hypervolume of a growing set never falls, although the nadir moves: the share of the box is the mean
over error levels t of the area that candidates with error <= t dominate; that area grows with t, so a wider range of t
cannot lower its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.growing_front import DominatedVolume, GrowingFront, improving_rows

REFERENCE = 1.1
"""Reference point in scaled units, see the module's text."""
ERROR_FLOOR = 1e-3
"""Relative errors below this count as equal."""

Floats = NDArray[np.float64]


def _matrix(values: Any) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    assert matrix.ndim == 2, f"objective values must be (candidates, objectives), not {matrix.shape}"
    assert np.isfinite(matrix).all(), "objective values must be finite"
    return matrix


def front(values: Any) -> NDArray[np.bool_]:
    """Mask (N,) of the non-dominated rows of `values` (N, objectives), minimised.

    A row is dominated if another one is at least as good in all objectives and better in one; equal rows do not
    dominate each other, so that duplicates of a front row are all on the front. O(N log N) for three objectives
    (Kung, Luccio and Preparata 1975, by moocore).
    """
    matrix = _matrix(values)
    if len(matrix) == 0:
        return np.zeros(0, dtype=bool)
    import moocore

    return np.asarray(moocore.is_nondominated(matrix, keep_weakly=True), dtype=bool)


def hypervolume(values: Any, reference: Any) -> float:
    """Volume that the rows of `values` (N, objectives) dominate below `reference` (objectives,), minimised.

    Rows that are not better than the reference in every objective add nothing. 0 without rows.
    """
    matrix = _matrix(values)
    limit = np.asarray(reference, dtype=np.float64)
    inside = matrix[(matrix < limit).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if len(limit) == 1:
        return float(limit[0] - inside.min())
    import moocore

    return float(moocore.hypervolume(inside, ref=limit))


@dataclass(frozen=True)
class ObjectiveScale:
    """Scaling of (error, cost, cost ...) to unit ranges: `lower` becomes 0, `upper` 1, the error in decades."""

    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @classmethod
    def of(cls, values: Any, cost_bounds: tuple[Any, Any] | None = None) -> ObjectiveScale:
        """The scale of the module's reference rule.

        Args:
            values: evaluated objectives (N, 1 + costs), N >= 1.
            cost_bounds: least and largest cost (costs,) of the whole space; those of `values` when not given.
        """
        matrix = _matrix(values)
        low, high = cost_bounds if cost_bounds is not None else (matrix[:, 1:].min(axis=0), matrix[:, 1:].max(axis=0))
        lower = (ERROR_FLOOR, *(float(v) for v in low))
        upper = (max(ERROR_FLOOR, float(matrix[:, 0].max())), *(float(v) for v in high))
        return cls(lower, upper)

    def unit(self, values: Any) -> Floats:
        """Scaled objectives (N, objectives); an objective without a range is 0."""
        matrix = _log_error(_matrix(values))
        low, high = _log_error(np.array([self.lower, self.upper]))
        span = high - low
        return np.where(span > 0, (matrix - low) / np.where(span > 0, span, 1.0), 0.0)

    def hypervolume(self, values: Any) -> float:
        """Share of the box between the ideal and the reference that `values` (N, objectives) dominate."""
        unit = self.unit(values)
        # Better than the ideal of the scale would leave the box.
        return hypervolume(np.maximum(unit, 0.0), np.full(unit.shape[1], REFERENCE)) / REFERENCE ** unit.shape[1]


def _log_error(matrix: Floats) -> Floats:
    out = matrix.copy()
    out[:, 0] = np.log10(np.maximum(out[:, 0], ERROR_FLOOR))
    return out


def hypervolume_history(values: Any, scale: ObjectiveScale | None = None) -> Floats:
    """Hypervolume (N,) after each of the evaluations `values` (N, objectives), in order, all in one scale.

    Args:
        scale: default: the scale of all the values.

    Only values that change the front cost more than a few comparisons; a million take seconds.
    """
    matrix = _matrix(values)
    history = np.zeros(len(matrix))
    if len(matrix) == 0:
        return history
    unit = np.maximum((scale or ObjectiveScale.of(matrix)).unit(matrix), 0.0)
    reference = np.full(unit.shape[1], REFERENCE)
    grown = DominatedVolume(reference)
    rows = improving_rows(unit)
    for row, end in zip(rows, [*rows[1:], len(unit)], strict=True):
        grown.add(unit[row])
        history[row:end] = grown.volume / reference.prod()
    return history


class FrontTracker:
    """Front size and hypervolume of a growing set, updated with each value.

    After n additions `hypervolume` equals ``hypervolume_history(values)[-1]`` of the same n values and cost bounds. A
    value costs O(front) comparisons, and if it is on the front the exact volume of its neighbourhood
    (:class:`nas.growing_front.DominatedVolume`). A worse error than any before stretches the scale of errors, which
    costs nothing: the volume grows by the area that the front dominates in the costs alone.

    Args:
        cost_bounds: least and largest value of each cost over the search space.
    """

    def __init__(self, cost_bounds: tuple[Any, Any]) -> None:
        low, high = (np.asarray(bound, dtype=np.float64) for bound in cost_bounds)
        self._low, self._span = low, high - low
        limit = np.full(len(low), REFERENCE)
        self._front = GrowingFront(1 + len(low))
        self._worst = 0.0  # error in decades above ERROR_FLOOR; scaled by the worst only in the end
        self._volume = DominatedVolume([0.0, *limit])
        self._area = DominatedVolume(limit)

    @property
    def size(self) -> int:
        """Number of non-dominated values, equal ones counted once."""
        return len(self._front)

    @property
    def points(self) -> Floats:
        """The non-dominated values (front, objectives), equal ones once."""
        return self._front.points

    @property
    def hypervolume(self) -> float:
        """Share of the box between the ideal and the reference that the values dominate."""
        # Without a range of errors all of them are 0, and the box is as deep as what is dominated.
        depth = REFERENCE * self._worst
        volume = self._volume.volume / depth if depth > 0 else self._area.volume
        return float(volume / REFERENCE ** len(self._low))

    def add(self, values: Any) -> bool:
        """Add one evaluated candidate's objectives (objectives,); whether the front changes."""
        row = _matrix([values])[0]
        point = self._scaled(row[None])[0]
        self._widen(float(point[0]))
        if not self._front.add(row):
            return False
        self._area.add(point[1:])
        self._volume.add(point)
        return True

    def extend(self, values: Any) -> None:
        """Add many at once (N, objectives): O(N log N) for three objectives."""
        matrix = _matrix(values)
        if len(matrix) == 0:
            return
        self._widen(float(self._scaled(matrix)[:, 0].max()))
        whole = np.concatenate([self._front.points, matrix])
        self._front.replace(_distinct_front(whole))
        points = self._scaled(self._front.points)
        reference = np.full(points.shape[1], REFERENCE)
        self._area.replace(_distinct_front(points[:, 1:]), reference[1:], hypervolume(points[:, 1:], reference[1:]))
        reference[0] = REFERENCE * self._worst
        self._volume.replace(_distinct_front(points), reference, hypervolume(points, reference))

    def _widen(self, decades: float) -> None:
        if decades > self._worst:
            self._worst = decades
            self._volume.stretch(0, REFERENCE * decades, self._area.volume)

    def _scaled(self, matrix: Floats) -> Floats:
        """Decades of error above ERROR_FLOOR and costs in [0, 1], nothing better than the ideal."""
        out = _log_error(matrix)
        out[:, 0] -= np.log10(ERROR_FLOOR)
        out[:, 1:] = (out[:, 1:] - self._low) / np.where(self._span > 0, self._span, 1.0) * (self._span > 0)
        return np.maximum(out, 0.0)


def _distinct_front(matrix: Floats) -> Floats:
    return np.unique(matrix[front(matrix)], axis=0)
