"""Spaces as samplers see them: named decisions with values, candidates as rows of indices.

A sampler needs little of a search space, and that little is :class:`~nas.search.decision_space.DecisionSpace`.
:class:`search_spaces.space.SearchSpace` has it; :class:`GridSpace` and :class:`ListedSpace` are plain ones for
tables of results and for any Optuna study with finitely many parameter values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.search.decision_space import DecisionLike, DecisionSpace, Indices
from search_spaces.errors import UserError, shown

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

__all__ = [
    "DecisionLike",
    "DecisionSpace",
    "ExhaustedError",
    "GridDecision",
    "GridSpace",
    "Indices",
    "ListedSpace",
    "distributions",
    "members",
    "one_step",
    "params_of",
    "vector_of",
]


class ExhaustedError(Exception):
    """No candidate is left to propose."""


@dataclass(frozen=True)
class GridDecision:
    """A decision of a :class:`GridSpace`."""

    name: str
    values: tuple[Any, ...]


class GridSpace:
    """All combinations of some named values; the last decision varies fastest.

    >>> space = GridSpace({"depth": (1, 2, 3), "kind": ("a", "b")})
    >>> space.num_candidates
    6

    Raises:
        UserError: no decisions, one without values, or a value given twice.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        if not values:
            raise UserError("a grid without decisions; give each a name and its values")
        for name, given in values.items():
            if not len(given):
                raise UserError(f"decision {shown(name)} has no values; give at least one")
            if len(set(given)) != len(given):
                raise UserError(f"decision {shown(name)} has a value twice: {shown(list(given))}; give each once")
        self._decisions = tuple(GridDecision(name, tuple(given)) for name, given in values.items())
        self._sizes = tuple(len(decision.values) for decision in self._decisions)
        self.distributions: dict[str, BaseDistribution] = {}
        """Optuna distributions of decisions that are not categories."""

    @classmethod
    def from_distributions(cls, distributions: Mapping[str, BaseDistribution]) -> GridSpace:
        """The grid of Optuna distributions with finitely many values: categorical, integer, or float with a step.

        Raises:
            UserError: a distribution without end, or a logarithmic integer one.
        """
        space = cls({name: _values(name, distribution) for name, distribution in distributions.items()})
        space.distributions = dict(distributions)
        return space

    @property
    def decisions(self) -> tuple[GridDecision, ...]:
        """The columns of an index matrix."""
        return self._decisions

    @property
    def free_decisions(self) -> tuple[GridDecision, ...]:
        """Decisions with more than one value."""
        return tuple(decision for decision in self._decisions if len(decision.values) > 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values per decision."""
        return self._sizes

    @property
    def num_candidates(self) -> int:
        """Number of combinations."""
        return math.prod(self._sizes)

    def enumerate(self) -> Indices:
        """All candidates (num_candidates, decisions)."""
        return self.unrank(np.arange(self.num_candidates))

    def unrank(self, ranks: NDArray[np.int64]) -> Indices:
        """Candidates (N, decisions) by their numbers (N,) in :meth:`enumerate`."""
        rest = np.asarray(ranks, dtype=_rank_type(self._sizes))
        rows = np.empty((len(rest), len(self._sizes)), dtype=np.int64)
        for column in reversed(range(len(self._sizes))):
            rows[:, column] = rest % self._sizes[column]
            rest = rest // self._sizes[column]
        return rows

    def rank(self, matrix: Indices) -> NDArray[np.int64]:
        """Numbers (N,) in :meth:`enumerate`; Python integers for 2^63 candidates and more."""
        return _grid_rank(self.canonical(matrix), self._sizes)

    def canonical(self, matrix: Indices) -> Indices:
        """The matrix itself: every combination is a candidate of its own.

        Raises:
            UserError: another shape, or an index outside its decision's values.
        """
        indices = np.asarray(matrix, dtype=np.int64)
        if indices.ndim != 2 or indices.shape[1] != len(self._sizes):
            raise UserError(f"index matrix of shape {indices.shape}; legal is (candidates, {len(self._sizes)})")
        wrong = (indices < 0) | (indices >= np.array(self._sizes))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise UserError(
                f"index {indices[row, column]} of {self._decisions[column].name} in row {row}; legal are 0 to "
                f"{self._sizes[column] - 1}"
            )
        return indices

    def sample(self, rng: np.random.Generator, num: int) -> Indices:
        """Independent candidates (num, decisions), uniform."""
        return rng.integers(0, np.array(self._sizes), size=(num, len(self._sizes)))

    def neighbours(self, indices: Indices) -> Indices:
        """Every candidate (M, decisions) that differs from a vector (decisions,) in one decision."""
        return one_step(np.asarray(indices, dtype=np.int64), self._sizes)


class ListedSpace(GridSpace):
    """Some combinations only: the rows of a table that does not hold all of them.

    Args:
        values: as of :class:`GridSpace`.
        rows: candidates (N, decisions), each once; their numbers are their positions.

    Raises:
        UserError: no rows, one twice, or one outside the values.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], rows: Indices) -> None:
        super().__init__(values)
        self._rows = super().canonical(rows).copy()
        self._rows.flags.writeable = False
        if not len(self._rows):
            raise UserError("a space without candidates; give at least one row")
        numbers = _grid_rank(self._rows, self._sizes)
        self._order = np.argsort(numbers, kind="stable")
        self._numbers = numbers[self._order]
        twice = np.flatnonzero(self._numbers[1:] == self._numbers[:-1])
        if len(twice):
            raise UserError(f"rows {self._order[twice[0]]} and {self._order[twice[0] + 1]} are the same candidate")

    @property
    def num_candidates(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def enumerate(self) -> Indices:
        """All rows (read-only)."""
        return self._rows

    def unrank(self, ranks: NDArray[np.int64]) -> Indices:
        """Rows (N, decisions) by their positions (N,)."""
        return self._rows[np.asarray(ranks, dtype=np.int64)]

    def _find(self, matrix: Indices) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        numbers = _grid_rank(super().canonical(matrix), self._sizes)
        at = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return self._order[at], np.asarray(self._numbers[at] == numbers, dtype=bool)

    def listed(self, matrix: Indices) -> NDArray[np.bool_]:
        """Mask (N,) of the vectors that are rows."""
        return self._find(matrix)[1]

    def rank(self, matrix: Indices) -> NDArray[np.int64]:
        """Positions (N,).

        Raises:
            UserError: a vector that is no row.
        """
        positions, found = self._find(matrix)
        if not found.all():
            row = np.asarray(matrix)[int(np.argmin(found))]
            raise UserError(f"index vector {shown(row.tolist())} is none of the {len(self._rows):,} listed candidates")
        return positions

    def sample(self, rng: np.random.Generator, num: int) -> Indices:
        """Independent rows (num, decisions), uniform."""
        return self._rows[rng.integers(0, len(self._rows), size=num)]

    def neighbours(self, indices: Indices) -> Indices:
        """Rows (M, decisions) that differ from a vector (decisions,) in one decision; there may be none."""
        rows = super().neighbours(indices)
        return rows[self.listed(rows)]


def members(space: DecisionSpace, matrix: Indices) -> NDArray[np.bool_]:
    """Mask (N,) of the vectors that are candidates of the space: all of them, unless it lists some only."""
    return space.listed(matrix) if isinstance(space, ListedSpace) else np.ones(len(matrix), dtype=bool)


def distributions(space: DecisionSpace) -> dict[str, BaseDistribution]:
    """Optuna parameters of a space: every decision with a choice, its values as categories.

    A grid made of distributions has those.
    """
    from optuna.distributions import CategoricalDistribution

    given = space.distributions if isinstance(space, GridSpace) else {}
    names = [decision.name for decision in space.free_decisions]
    if given:
        return {name: given[name] for name in names}
    return {decision.name: CategoricalDistribution(decision.values) for decision in space.free_decisions}


def params_of(space: DecisionSpace, vector: Indices) -> dict[str, Any]:
    """Optuna parameters of an index vector (decisions,)."""
    chosen = zip(space.decisions, vector, strict=True)
    return {decision.name: decision.values[int(i)] for decision, i in chosen if len(decision.values) > 1}


def vector_of(space: DecisionSpace, params: Mapping[str, Any]) -> Indices:
    """Index vector (decisions,) of Optuna parameters."""
    values = [(decision, params.get(decision.name, decision.values[0])) for decision in space.decisions]
    return np.array([decision.values.index(value) for decision, value in values], dtype=np.int64)


def one_step(vector: Indices, sizes: Sequence[int]) -> Indices:
    """Every vector (M, decisions) that differs from one (decisions,) in one decision."""
    rows = np.repeat(vector[None], sum(sizes), axis=0)
    columns = np.repeat(np.arange(len(sizes)), sizes)
    rows[np.arange(len(rows)), columns] = np.concatenate([np.arange(size) for size in sizes])
    return rows[(rows != vector).any(axis=1)]


def _rank_type(sizes: Sequence[int]) -> Any:
    return np.int64 if math.prod(sizes) < 2**63 else object


def _grid_rank(matrix: Indices, sizes: Sequence[int]) -> NDArray[Any]:
    total: NDArray[Any] = np.zeros(len(matrix), dtype=_rank_type(sizes))
    for column, size in enumerate(sizes):
        total = total * size + matrix[:, column]
    return total


def _values(name: str, distribution: BaseDistribution) -> tuple[Any, ...]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return tuple(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return tuple(distribution.low + i * distribution.step for i in range(steps + 1))
    raise UserError(
        f"parameter {shown(name)} is {distribution}; legal are categorical ones, integers and floats with a step"
    )
