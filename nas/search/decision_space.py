"""What a sampler asks of a search space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class DecisionLike(Protocol):
    """One decision: an Optuna parameter where it has a choice."""

    @property
    def name(self) -> str:
        """Of the Optuna parameter."""

    @property
    def values(self) -> tuple[Any, ...]:
        """What may be chosen: text, numbers, booleans or None."""


class DecisionSpace(Protocol):
    """What samplers ask of a space; index matrices are (N, decisions) int64."""

    @property
    def decisions(self) -> Sequence[DecisionLike]:
        """The columns of an index matrix."""

    @property
    def free_decisions(self) -> Sequence[DecisionLike]:
        """Decisions with more than one value."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values per decision."""

    @property
    def num_candidates(self) -> int:
        """Number of distinct candidates."""

    def enumerate(self) -> Indices:
        """All candidates (num_candidates, decisions)."""

    def unrank(self, ranks: NDArray[np.int64], /) -> Indices:
        """Candidates (N, decisions) by their numbers (N,) in :meth:`enumerate`."""

    def rank(self, matrix: Indices, /) -> NDArray[np.int64]:
        """Numbers (N,) in :meth:`enumerate`, equal for vectors of the same candidate.

        Python integers (an object array) for spaces of 2^63 candidates and more.
        """

    def canonical(self, matrix: Indices, /) -> Indices:
        """The same candidates, each as the one vector that stands for all equivalent ones."""

    def sample(self, rng: np.random.Generator, num: int, /) -> Indices:
        """Independent candidates (num, decisions), uniform over distinct ones."""

    def neighbours(self, indices: Indices, /) -> Indices:
        """Every other candidate (M, decisions) that differs from a vector (decisions,) in one decision, once each."""
