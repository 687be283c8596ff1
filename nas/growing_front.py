"""The front of a growing set and the volume it dominates, one point at a time; all objectives minimised."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 4096
_STRONGEST = 64


class GrowingFront:
    """The distinct non-dominated points of a growing set.

    A point costs O(front) comparisons of floats in a row (about 1 ns each), whether it is dominated or not. Structures
    that answer in O(log n) exist for two objectives; for three, a front of some thousand points is scanned sooner than
    a tree of Python objects is descended.
    """

    def __init__(self, num_objectives: int) -> None:
        self._columns = np.empty((num_objectives, 64))
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def columns(self) -> Floats:
        """The points as columns (objectives, front), those that came first first; a view, valid until the next one."""
        return self._columns[:, : self._size]

    @property
    def points(self) -> Floats:
        """The points (front, objectives), those that came first first."""
        return self.columns.T.copy()

    def covers(self, point: Floats) -> bool:
        """Whether a point of the front is at least as good as `point` (objectives,) in every objective."""
        return bool(_at_most(self.columns, point).any())

    def add(self, point: Floats) -> bool:
        """Take `point` (objectives,) in unless the front covers it; whether it was taken in."""
        if self.covers(point):
            return False
        beaten = _at_least(self.columns, point)
        if beaten.any():
            kept = self.columns[:, ~beaten]
            self._size = kept.shape[1]
            self.columns[:] = kept
        if self._size == self._columns.shape[1]:
            self._columns = np.concatenate([self._columns, np.empty_like(self._columns)], axis=1)
        self._columns[:, self._size] = point
        self._size += 1
        return True

    def replace(self, points: Floats) -> None:
        """Start again from `points` (N, objectives), of which none covers another."""
        self._columns = np.concatenate([points.T, np.empty((points.shape[1], 64))], axis=1)
        self._size = len(points)


class DominatedVolume:
    """Volume that a growing set dominates below a reference point.

    A new point p adds the volume of the box from p to the reference that no other point dominates. That part lies
    within the box [p, cap]: cap is, in objective k, the least value among points that are at least as good as p in all
    the others. Only points below cap in every objective reach into it; their volume there is moocore's (O(m log m) of
    m such points for three objectives; Fonseca, Paquete and Lopez-Ibanez 2006), so that a point costs O(front)
    comparisons and the exact volume of its neighbourhood.

    Args:
        reference: (objectives,); points that are not better than it in every objective add nothing.
    """

    def __init__(self, reference: Any) -> None:
        self._reference = np.array(reference, dtype=np.float64)
        self._front = GrowingFront(len(self._reference))
        self._sum, self._rest = 0.0, 0.0

    @property
    def volume(self) -> float:
        """The dominated volume."""
        return self._sum + self._rest

    @property
    def points(self) -> Floats:
        """The non-dominated points (front, objectives)."""
        return self._front.points

    def add(self, point: Floats) -> float:
        """Add `point` (objectives,); returns the volume gained."""
        gain = self.gain(point)
        if self._front.add(point):
            self._plus(gain)
        return gain

    def gain(self, point: Floats) -> float:
        """What `point` (objectives,) would add to the volume."""
        cap = self._reference.copy()
        if not (point < cap).all():
            return 0.0
        columns = self._front.columns
        better = columns <= point[:, None]
        num_worse = len(point) - better.sum(axis=0)
        if (num_worse == 0).any():
            return 0.0
        for k, column in enumerate(columns):
            beside = column[(num_worse == 1) & ~better[k]]
            if len(beside):
                cap[k] = min(cap[k], beside.min())
        box = float(np.prod(cap - point))
        inside = (columns < cap[:, None]).all(axis=0)
        if not inside.any():
            return box
        import moocore

        return box - float(moocore.hypervolume(np.maximum(columns[:, inside].T, point), ref=cap))

    def stretch(self, objective: int, value: float, face: float) -> None:
        """Move the reference of one objective up; no point may lie beyond the old one in that objective.

        Args:
            value: the new reference, at least the old one.
            face: volume that the points dominate in the other objectives.
        """
        self._plus(face * (value - self._reference[objective]))
        self._reference[objective] = value

    def replace(self, points: Floats, reference: Floats, volume: float) -> None:
        """Start again from `points` (N, objectives), of which none covers another, and the volume they dominate."""
        self._reference = reference.copy()
        self._front.replace(points)
        self._sum, self._rest = volume, 0.0

    def _plus(self, gain: float) -> None:
        # Neumaier's compensated sum: many small gains must not be lost beside one large volume.
        total = self._sum + gain
        large, small = (self._sum, gain) if abs(self._sum) >= abs(gain) else (gain, self._sum)
        self._rest += (large - total) + small
        self._sum = total


def improving_rows(values: Floats) -> NDArray[np.intp]:
    """Rows of `values` (N, objectives) that no earlier row covers: those at which a growing front changes.

    Rows are compared in blocks with the points that dominate most; what these leave is added one by one.
    """
    found: list[int] = []
    grown = GrowingFront(values.shape[1])
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        columns = np.ascontiguousarray(block.T)
        covered = np.zeros(len(block), dtype=bool)
        for point in _strongest(grown.points, block.max(axis=0)):
            covered |= _at_least(columns, point)
        found += [start + int(row) for row in np.flatnonzero(~covered) if grown.add(block[row])]
    return np.array(found, dtype=np.intp)


def _strongest(points: Floats, corner: Floats) -> Floats:
    """The points that dominate most of the box below `corner`."""
    volume = np.maximum(corner - points, 0.0).prod(axis=1)
    return points[np.argsort(-volume)[:_STRONGEST]]


def _at_most(columns: Floats, point: Floats) -> NDArray[np.bool_]:
    """Mask of the columns (objectives, N) that are at most `point` in every objective."""
    mask: NDArray[np.bool_] = columns[0] <= point[0]
    for column, value in zip(columns[1:], point[1:], strict=True):
        mask &= column <= value
    return mask


def _at_least(columns: Floats, point: Floats) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = columns[0] >= point[0]
    for column, value in zip(columns[1:], point[1:], strict=True):
        mask &= column >= value
    return mask
