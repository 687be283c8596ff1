"""Which candidates may still be proposed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nas.search.decisions import DecisionSpace, members
from nas.search.settings import MAX_TABLE, Floats, Indices, KnownCosts, SweepSettings, table_or_sample
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

Mask = NDArray[np.bool_]


class OpenCandidates:
    """The candidates within hard limits that are neither evaluated nor being evaluated.

    Spaces of up to MAX_TABLE candidates are held as a table, in which the nearest open candidate is found exactly.
    Larger ones are walked outwards from the proposal, by Hamming distance, a few thousand candidates a step.

    Args:
        space: of the candidates.
        allowed: mask (N,) of index matrices (N, decisions) within the limits; None: all.
    """

    def __init__(self, space: DecisionSpace, allowed: Callable[[Indices], Mask] | None = None) -> None:
        self._space, self._allowed = space, allowed
        self._taken: set[int] = set()
        self._table: Indices | None = None
        if space.num_candidates <= MAX_TABLE:
            self._table = space.enumerate()
            self._open = self.feasible(self._table).copy()
            self._num_open = int(self._open.sum())

    def feasible(self, matrix: Indices) -> Mask:
        """Mask (N,) of the candidates within the limits."""
        if self._allowed is None:
            return np.ones(len(matrix), dtype=bool)
        return np.asarray(self._allowed(matrix), dtype=bool)

    @property
    def num_open(self) -> int | None:
        """Number of candidates left to propose; None for a space too large for a table."""
        return None if self._table is None else self._num_open

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to propose; always False for a space too large for a table."""
        return self._table is not None and self._num_open == 0

    def take(self, vector: Indices) -> None:
        """Never propose this candidate again."""
        rank = int(self._space.rank(vector[None])[0])
        self._taken.add(rank)
        if self._table is not None and self._open[rank]:
            self._open[rank] = False
            self._num_open -= 1

    def take_all(self, matrix: Indices) -> None:
        """Never propose any of these candidates (N, decisions) again."""
        if not len(matrix):
            return
        ranks = self._space.rank(matrix)
        self._taken.update(int(rank) for rank in ranks)
        if self._table is not None:
            self._open[ranks] = False
            self._num_open = int(self._open.sum())

    def release(self, vector: Indices) -> None:
        """Undo :meth:`take`: the candidate may be proposed again."""
        rank = int(self._space.rank(vector[None])[0])
        self._taken.discard(rank)
        if self._table is not None and not self._open[rank] and bool(self.feasible(vector[None])[0]):
            self._open[rank] = True
            self._num_open += 1

    def is_open(self, vector: Indices) -> bool:
        """Whether the candidate may be proposed; a vector that is no candidate of the space may not."""
        if not members(self._space, vector[None])[0]:
            return False
        rank = int(self._space.rank(vector[None])[0])
        if self._table is not None:
            return bool(self._open[rank])
        return rank not in self._taken and bool(self.feasible(vector[None])[0])

    def nearest(self, vector: Indices, rng: np.random.Generator) -> Indices | None:
        """An open candidate with the fewest stages different from `vector`, at random among equals (or None)."""
        if self._table is not None:
            if self._num_open == 0:
                return None
            rows = np.flatnonzero(self._open)
            distance = (self._table[rows] != vector).sum(axis=1)
            return self._table[rng.choice(rows[distance == distance.min()])]
        for distance in range(1, len(vector) + 1):
            found = self._at_distance(vector, distance, rng)
            open_rows = [
                row for row in found[self.feasible(found)] if int(self._space.rank(row[None])[0]) not in self._taken
            ]
            if open_rows:
                return open_rows[int(rng.integers(len(open_rows)))]
        return None

    def _at_distance(self, vector: Indices, distance: int, rng: np.random.Generator, num: int = 4096) -> Indices:
        """Candidates that differ from `vector` in `distance` stages: all for 1, random ones beyond."""
        if distance == 1:
            return self._space.neighbours(vector)
        rows = np.repeat(vector[None], num, axis=0)
        sizes = np.array(self._space.sizes)
        free = np.flatnonzero(sizes > 1)
        for row in rows:
            columns = rng.choice(free, size=min(distance, len(free)), replace=False)
            row[columns] = (row[columns] + rng.integers(1, sizes[columns])) % sizes[columns]
        return rows


class Pool(OpenCandidates):
    """The open candidates of a sweep, within its limits of predicted latency and parameters.

    Raises:
        UserError: no candidate of the space is within the limits; the reachable range is named.
    """

    def __init__(self, space: SearchSpace, costs: KnownCosts, settings: SweepSettings) -> None:
        self._name, self._settings = space.name, settings
        seen = table_or_sample(space, settings.seed)
        values = costs.matrix(seen)
        if not np.isfinite(values).all():
            bad = seen[int(np.argmin(np.isfinite(values).all(axis=1)))]
            raise UserError(
                f"candidate {space.decode(bad)} has no finite predicted latency and parameters; calibrate again"
            )
        self.cost_bounds: tuple[Floats, Floats] = (values.min(axis=0), values.max(axis=0))
        """Least and largest (latency_ms, num_params) of the space (of a sample, if it is large)."""
        if not self._within(values).any():
            raise UserError(self._nothing_allowed())
        super().__init__(space, lambda matrix: self._within(costs.matrix(matrix)))

    def _within(self, values: Floats) -> Mask:
        latency, params = self._settings.max_latency_ms, self._settings.max_params
        fast = np.ones(len(values), bool) if latency is None else values[:, 0] <= latency
        small = np.ones(len(values), bool) if params is None else values[:, 1] <= params
        return fast & small

    def _nothing_allowed(self) -> str:
        low, high = self.cost_bounds
        asked = []
        if self._settings.max_latency_ms is not None:
            asked.append(f"max_latency_ms = {self._settings.max_latency_ms:g}")
        if self._settings.max_params is not None:
            asked.append(f"max_params = {self._settings.max_params:,}")
        return (
            f"no candidate of search space {self._name!r} is within {' and '.join(asked)}; it reaches from "
            f"{low[0]:.4g} to {high[0]:.4g} ms and from {low[1]:,.0f} to {high[1]:,.0f} parameters; raise the limit"
        )
