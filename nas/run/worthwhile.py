"""Candidates that nobody has evaluated but that would improve a front, if their predicted errors hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.pareto import REFERENCE, ObjectiveScale, front, hypervolume

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Worthwhile:
    """Rows of a matrix of candidates, the most promising first, and what each would add to the front.

    ``gain``: hypervolume (share of the box of :mod:`nas.pareto`) that it adds to the front and those before it.
    """

    rows: NDArray[np.int64]
    gain: Floats


def worthwhile(evaluated: Floats, predicted: Floats, allowed: NDArray[np.bool_], num: int) -> Worthwhile:
    """At most `num` candidates that raise the front's hypervolume most, chosen one after the other.

    Hypervolume is submodular: what a candidate adds only shrinks as others join, so that a candidate whose last known
    gain is below another's present one need not be looked at again (lazy greedy; Minoux 1978).

    Args:
        evaluated: (error, latency in ms, parameters) of evaluated candidates (M, 3), M >= 1.
        predicted: the same of unevaluated candidates (N, 3), their error predicted.
        allowed: (N,) which of them may be chosen.
        num: most candidates.
    """
    rows = np.flatnonzero(allowed & np.isfinite(predicted).all(1))
    none = Worthwhile(np.zeros(0, np.int64), np.zeros(0))
    if not len(rows) or num < 1:
        return none
    best = evaluated[front(evaluated)]
    on_front = front(np.concatenate([best, predicted[rows]]))[len(best) :]
    rows = rows[on_front]
    if not len(rows):
        return none
    scale = ObjectiveScale.of(np.concatenate([evaluated, predicted[rows]]))
    unit, chosen = scale.unit(predicted[rows]), scale.unit(best)
    reference = np.full(3, REFERENCE)
    box = float(np.prod(reference))
    current = hypervolume(chosen, reference)

    def gain_of(row: int) -> float:
        return hypervolume(np.vstack([chosen, unit[row]]), reference) - current

    gains = np.array([gain_of(row) for row in range(len(rows))])
    fresh = np.ones(len(rows), bool)
    taken: list[int] = []
    added: list[float] = []
    while len(taken) < min(num, len(rows)):
        top = int(np.argmax(gains))
        if gains[top] <= 1e-9 * box:
            break
        if not fresh[top]:
            gains[top], fresh[top] = gain_of(top), True
            continue
        taken.append(top)
        added.append(float(gains[top]) / box)
        chosen = np.vstack([chosen, unit[top]])
        current += float(gains[top])
        gains[top], fresh[:] = -np.inf, False
    return Worthwhile(rows[taken], np.array(added))
