"""The region that a front leaves to be won, cut into disjoint boxes.

All objectives are minimised. With a front P and a reference point r, the region is every point below r that no
point of P dominates; the expected hypervolume improvement is a sum over the boxes that it is cut into.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boxes:
    """Disjoint boxes; corners may be minus infinity below."""

    lower: Floats
    """(boxes, objectives)."""
    upper: Floats
    """(boxes, objectives), finite."""

    def __len__(self) -> int:
        return len(self.lower)


def nondominated_boxes(front: Floats, reference: Floats) -> Boxes:
    """Boxes that fill the region below `reference` which no row of `front` dominates.

    The rows are passed in the order of objective 0; the region of the other objectives that is still open shrinks
    row by row, and what a row closes becomes boxes. For two and three objectives there are at most 3n + 1 of them
    (a staircase); for more, each row cuts every open box that it reaches, which is exact and grows faster.

    Args:
        front: (N, objectives), dominated and duplicate rows allowed, as are rows beyond the reference (no effect).
        reference: (objectives,), finite.
    """
    reference = np.asarray(reference, dtype=np.float64)
    points = np.asarray(front, dtype=np.float64).reshape(-1, len(reference))
    points = points[(points < reference).all(axis=1)]
    points = points[np.lexsort(points.T[::-1])]
    if len(reference) == 1:
        best = points[0] if len(points) else reference
        return Boxes(np.full((1, 1), -np.inf), best[None].copy())
    if len(reference) == 2:
        return _steps(points, reference)
    if len(reference) == 3:
        return _staircase(points, reference)
    return _cuts(points, reference)


def _steps(points: Floats, reference: Floats) -> Boxes:
    """Two objectives: between two neighbours of the front, everything below the earlier one's height."""
    lower, upper = [], []
    start, height = -np.inf, float(reference[1])
    for first, second in points:
        if second < height:
            lower.append((start, -np.inf))
            upper.append((first, height))
            start, height = first, second
    lower.append((start, -np.inf))
    upper.append((reference[0], height))
    return _boxes(lower, upper)


def _staircase(points: Floats, reference: Floats) -> Boxes:
    """Three objectives: the open region of the last two is a row of strips whose heights fall from left to right."""
    lower: list[tuple[float, float, float]] = []
    upper: list[tuple[float, float, float]] = []
    # Strip i reaches from lefts[i] to lefts[i + 1] (the last one to the reference) and is open since `since[i]`.
    lefts, heights, since = [-np.inf], [float(reference[2])], [-np.inf]
    right = float(reference[1])

    def close(i: int, left: float, end: float, level: float) -> None:
        if level > since[i] and end > left:
            lower.append((since[i], left, -np.inf))
            upper.append((level, end, heights[i]))

    for level, x, y in points.tolist():
        at = bisect_right(lefts, x) - 1
        if heights[at] <= y:
            continue  # covered by an earlier row
        stop = at
        while stop < len(lefts) and heights[stop] > y:
            end = lefts[stop + 1] if stop + 1 < len(lefts) else right
            close(stop, max(lefts[stop], x), end, level)
            stop += 1
        keep = at + 1 if lefts[at] < x else at  # the part of the first strip left of x stays as it was
        lefts[keep:stop], heights[keep:stop], since[keep:stop] = [x], [y], [level]
    for i, left in enumerate(lefts):
        close(i, left, lefts[i + 1] if i + 1 < len(lefts) else right, float(reference[0]))
    return _boxes(lower, upper)


def _cuts(points: Floats, reference: Floats) -> Boxes:
    """Any number of objectives: each row cuts off its part of every open box of the other objectives."""
    num = len(reference) - 1
    lo, hi = np.full((1, num), -np.inf), reference[None, 1:].copy()
    since = np.array([-np.inf])
    lower, upper = [], []

    def close(inner: Floats, outer: Floats, start: Floats, level: float) -> None:
        real = level > start
        lower.append(np.column_stack([start, inner])[real])
        upper.append(np.column_stack([np.full(len(inner), level), outer])[real])

    for row in points:
        level, corner = float(row[0]), row[1:]
        hit = (hi > corner).all(axis=1)
        if not hit.any():
            continue
        inner, outer, start = lo[hit], hi[hit], since[hit]
        cut = np.maximum(inner, corner)
        close(cut, outer, start, level)
        parts_lo, parts_hi, parts_since = [lo[~hit]], [hi[~hit]], [since[~hit]]
        for axis in range(num):
            # What lies below the corner in this objective, and above it in the earlier ones.
            real = cut[:, axis] > inner[:, axis]
            piece_lo, piece_hi = inner[real].copy(), outer[real].copy()
            piece_lo[:, :axis] = cut[real][:, :axis]
            piece_hi[:, axis] = cut[real][:, axis]
            parts_lo.append(piece_lo)
            parts_hi.append(piece_hi)
            parts_since.append(start[real])
        lo, hi, since = np.concatenate(parts_lo), np.concatenate(parts_hi), np.concatenate(parts_since)
    close(lo, hi, since, float(reference[0]))
    return Boxes(np.concatenate(lower), np.concatenate(upper))


def _boxes(lower: Sequence[tuple[float, ...]], upper: Sequence[tuple[float, ...]]) -> Boxes:
    return Boxes(np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64))
