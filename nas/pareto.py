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

    Costs one hypervolume per change of the front.
    """
    matrix = _matrix(values)
    history = np.zeros(len(matrix))
    if len(matrix) == 0:
        return history
    scale = scale or ObjectiveScale.of(matrix)
    kept = matrix[:0]
    current = 0.0
    for index, row in enumerate(matrix):
        if not (kept <= row).all(axis=1).any():
            kept = np.vstack([kept[~(row <= kept).all(axis=1)], row])
            current = scale.hypervolume(kept)
        history[index] = current
    return history


class FrontTracker:
    """Front size and hypervolume of a growing set, for a progress line.

    After n additions `hypervolume` equals ``hypervolume_history(values)[-1]`` of the same n values and cost bounds.
    """

    def __init__(self, cost_bounds: tuple[Any, Any]) -> None:
        self._bounds = cost_bounds
        self._front: Floats = np.zeros((0, 1 + len(cost_bounds[0])))
        self._worst_error = 0.0
        self.hypervolume = 0.0

    @property
    def size(self) -> int:
        """Number of non-dominated values, equal ones counted once."""
        return len(self._front)

    def add(self, values: Any) -> None:
        """Add one evaluated candidate's objectives (objectives,)."""
        row = _matrix([values])[0]
        wider = row[0] > self._worst_error
        self._worst_error = max(self._worst_error, float(row[0]))
        if not (self._front <= row).all(axis=1).any():
            self._front = np.vstack([self._front[~(row <= self._front).all(axis=1)], row])
        elif not wider:
            return
        lower = (ERROR_FLOOR, *(float(v) for v in self._bounds[0]))
        upper = (max(ERROR_FLOOR, self._worst_error), *(float(v) for v in self._bounds[1]))
        self.hypervolume = ObjectiveScale(lower, upper).hypervolume(self._front)
