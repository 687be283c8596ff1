"""Expected hypervolume improvement, exact, where some objectives are known beforehand.

Over the disjoint boxes [l, u] of the region that the front leaves open, a point f adds the sum of the products of
(u_k - max(l_k, f_k))+ over the objectives k. With independent predictions the expectation of a product is the product
of expectations: for a known objective the term itself, for an unknown one E[(u - f)+] - E[(l - f)+]
(Emmerich et al. 2011; Yang et al. 2019 for the sum over boxes). No sampling is involved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.search.acquisition.boxes import Boxes

Floats = NDArray[np.float64]
_BLOCK = 4096  # candidates at a time: the tables of one block stay in the cache


class Prediction(Protocol):
    """What is predicted of one unknown objective for N candidates."""

    def __len__(self) -> int:
        """N."""

    def expected_below(self, levels: Floats, rows: slice) -> Floats:
        """E[(a - f)+] of the candidates `rows` for each level a of (levels,): (rows, levels)."""


def expected_improvement(boxes: Boxes, costs: Floats, known: Sequence[int], unknown: Sequence[Prediction]) -> Floats:
    """Expected hypervolume improvement (N,) of N candidates.

    Args:
        boxes: of :func:`nondominated_boxes`, in all objectives.
        costs: (N, known objectives).
        known: columns of the boxes that `costs` speaks of, in its order; the others are the unknown ones, in order.
        unknown: a prediction for each of the others, independent of each other.

    O(N boxes objectives) time.
    """
    others = [axis for axis in range(boxes.upper.shape[1]) if axis not in known]
    assert len(others) == len(unknown), "one prediction for each unknown objective"
    num = len(costs)
    levels, below, above = [], [], []
    for axis in others:
        unique, where = np.unique(np.concatenate([boxes.lower[:, axis], boxes.upper[:, axis]]), return_inverse=True)
        levels.append(unique)
        below.append(where[: len(boxes)])
        above.append(where[len(boxes) :])
    out = np.zeros(num)
    for start in range(0, num, _BLOCK):
        rows = slice(start, min(start + _BLOCK, num))
        # Levels first, candidates last: each box reads whole rows.
        tables = [np.ascontiguousarray(p.expected_below(lv, rows).T) for p, lv in zip(unknown, levels, strict=True)]
        cost = np.ascontiguousarray(costs[rows].T)
        total = np.zeros(cost.shape[1] if len(cost) else tables[0].shape[1])
        for box in range(len(boxes)):
            factor = None
            for column, axis in enumerate(known):
                side = boxes.upper[box, axis] - np.maximum(cost[column], boxes.lower[box, axis])
                np.maximum(side, 0.0, out=side)
                factor = side if factor is None else np.multiply(factor, side, out=factor)
            for table, low, high in zip(tables, below, above, strict=True):
                side = table[high[box]] - table[low[box]]
                factor = side if factor is None else np.multiply(factor, side, out=factor)
            assert factor is not None
            total += factor
        out[rows] = total
    return out
