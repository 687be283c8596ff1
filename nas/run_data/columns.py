"""All finished candidates of a run as columns, and which of them a page draws when they are too many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from nas.run_data.types import Candidate

#: Up to so many finished candidates a page draws all of them.
MAX_DRAWN = 2_000
#: Of more, at most so many of the front and so many of the others.
MAX_FRONT = MAX_REST = MAX_DRAWN // 2
#: At most so many failed candidates are listed.
MAX_FAILED = 200

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Columns:
    """Every finished candidate in the order in which they finished, and the number of the others.

    Attributes:
        candidate_ids: (N,).
        objectives: (N, 3): latent error, predicted latency in ms, parameters.
        priors: (N,), NaN where there is none.
        orders: (N,), their `Candidate.order`.
        num_failed: candidates that did not finish with usable figures.
    """

    candidate_ids: NDArray[np.object_]
    objectives: Floats
    priors: Floats
    orders: NDArray[np.int64]
    num_failed: int

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Columns:
        """The columns of candidates that are all there are."""
        done = [c for c in candidates if c.is_done]
        values = [(c.latent_error, c.latency_ms, c.num_params) for c in done]
        return cls(
            np.array([c.candidate_id for c in done], dtype=object),
            np.array(values, dtype=np.float64).reshape(-1, 3),
            np.array([np.nan if c.prior is None else c.prior for c in done], dtype=np.float64),
            np.array([c.order for c in done], dtype=np.int64),
            len(candidates) - len(done),
        )

    def __len__(self) -> int:
        return len(self.objectives)

    @cached_property
    def on_front(self) -> NDArray[np.bool_]:
        """(N,) whether no other one is better in one objective and as good in the others."""
        from nas.pareto import front

        return front(self.objectives)

    def drawn(self, wanted: Collection[str] = ()) -> Rows:
        """Rows that stand for all, in order: the front and a random sample of the others, each within its limit.

        Besides them `wanted` ids, and the pair of :func:`contradicting`. All rows up to MAX_DRAWN.
        """
        if len(self) <= MAX_DRAWN:
            return np.arange(len(self))
        front, rest = np.flatnonzero(self.on_front), np.flatnonzero(~self.on_front)
        if len(front) > MAX_FRONT:  # evenly from the most faithful to the least
            front = front[np.argsort(self.objectives[front, 0], kind="stable")]
            front = front[np.linspace(0, len(front) - 1, MAX_FRONT).round().astype(int)]
        if len(rest) > MAX_REST:
            rest = np.random.default_rng(0).choice(rest, MAX_REST, replace=False)
        pair = contradicting(self.objectives[:, 2], self.objectives[:, 1]) or ()
        named = np.flatnonzero(np.isin(self.candidate_ids, np.array(list(wanted), dtype=object))) if wanted else ()
        return np.unique(np.concatenate([front, rest, np.array([*pair, *named], dtype=np.intp)]))


def contradicting(params: Floats, latency: Floats) -> tuple[int, int] | None:
    """The pair (small, fast) that contradicts "fewer parameters are faster" most; None where none does.

    `fast` has more parameters than `small` and is faster; the smaller of both ratios is largest. O(N log N + F G):
    `small` can only be one that no other has fewer parameters than and is slower than, `fast` one of the opposite kind.
    """
    from nas.pareto import front

    if len(params) == 0:
        return None
    smalls = np.flatnonzero(front(np.stack([params, -latency], axis=1)))
    fasts = np.flatnonzero(front(np.stack([-params, latency], axis=1)))
    best, pair = 1.0, None
    for small in smalls:
        score = np.minimum(params[fasts] / params[small], latency[small] / latency[fasts])
        place = int(score.argmax())
        if score[place] > best:
            best, pair = float(score[place]), (int(small), int(fasts[place]))
    return pair
