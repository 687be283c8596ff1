"""Which candidates may still be proposed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.search.decisions import DecisionSpace, members
from nas.search.settings import MAX_TABLE, Costs, Floats, Indices, SweepSettings, table_or_sample
from search_spaces.errors import UserError


class Pool:
    """The candidates within the limits that are neither evaluated nor being evaluated.

    Spaces of up to MAX_TABLE candidates are held as a table, in which the nearest open candidate is found exactly.
    Larger ones are walked outwards from the proposal, by Hamming distance, a few thousand candidates a step.

    Raises:
        UserError: no candidate of the space is within the limits; the reachable range is named.
    """

    def __init__(self, space: DecisionSpace, costs: Costs, settings: SweepSettings) -> None:
        self._space, self._costs, self._settings = space, costs, settings
        self._taken: set[int] = set()
        seen = table_or_sample(space, settings.seed)
        values = costs.matrix(seen)
        if not np.isfinite(values).all():
            bad = seen[int(np.argmin(np.isfinite(values).all(axis=1)))]
            raise UserError(f"candidate {bad.tolist()} has no finite predicted latency and parameters; calibrate again")
        self.cost_bounds: tuple[Floats, Floats] = (values.min(axis=0), values.max(axis=0))
        """Least and largest (latency_ms, num_params) of the space (of a sample, if it is large)."""
        allowed = self._within(values)
        if not allowed.any():
            raise UserError(self._nothing_allowed())
        self._table: Indices | None = None
        if space.num_candidates <= MAX_TABLE:
            self._table = seen
            self._open = allowed
            self._num_open = int(allowed.sum())

    def _within(self, values: Floats) -> NDArray[np.bool_]:
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
            f"no candidate of the search space is within {' and '.join(asked)}; it reaches from "
            f"{low[0]:.4g} to {high[0]:.4g} ms and from {low[1]:,.0f} to {high[1]:,.0f} parameters; raise the limit"
        )

    def feasible(self, matrix: Indices) -> NDArray[np.bool_]:
        """Mask (N,) of the candidates within the limits."""
        return self._within(self._costs.matrix(matrix))

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

    def release(self, vector: Indices) -> None:
        """Undo :meth:`take`: the candidate may be proposed again."""
        rank = int(self._space.rank(vector[None])[0])
        self._taken.discard(rank)
        if self._table is not None and not self._open[rank] and bool(self.feasible(vector[None])[0]):
            self._open[rank] = True
            self._num_open += 1

    def is_open(self, vector: Indices) -> bool:
        """Whether the candidate may be proposed."""
        if not bool(members(self._space, vector[None])[0]):
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
