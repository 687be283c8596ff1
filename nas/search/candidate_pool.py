"""The candidates among which the next one is chosen: all of them, or a pool that evolves where there are too many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.search.decisions import DecisionSpace, Indices, members
from nas.search.surrogate.features import Features

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Costs:
    """What is known of every candidate for nothing."""

    costs: Callable[[Indices], Floats]
    """(N, decisions) to (N, K), the known objectives, minimised."""
    given: Callable[[Indices], Floats] | None = None
    """(N, decisions) to (N, G), other numbers, such as a predicted error."""

    def of(self, matrix: Indices) -> tuple[Floats, Floats | None]:
        """Costs (N, K) and given numbers (N, G)."""
        return columns(self.costs(matrix)), None if self.given is None else columns(self.given(matrix))


def columns(values: Any) -> Floats:
    """One number a candidate (N,) as (N, 1)."""
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


@dataclass(frozen=True)
class Candidates:
    """Some candidates with what is known of them."""

    matrix: Indices
    costs: Floats
    given: Floats | None
    features: Floats

    def __len__(self) -> int:
        return len(self.matrix)


@dataclass(frozen=True)
class Room:
    """A space with its known costs, its hard limits and how its candidates become points.

    Attributes:
        allowed: mask (N,) of candidates within hard limits; None: all.
        draw: (generator, number) to random candidates within the limits where the space is not listed; None: random
            candidates of the space, of which those beyond the limits are dropped.
    """

    space: DecisionSpace
    known: Costs
    features: Features
    allowed: Callable[[Indices], Mask] | None = None
    draw: Callable[[np.random.Generator, int], Indices] | None = None

    def within(self, matrix: Indices) -> Mask:
        """Mask (N,) of candidates of the space within the limits."""
        mask = members(self.space, matrix)
        if self.allowed is not None and mask.any():
            mask[mask] = np.asarray(self.allowed(matrix[mask]), dtype=bool)
        return mask

    def candidates(self, matrix: Indices) -> Candidates:
        """With costs and features."""
        costs, given = self.known.of(matrix)
        return Candidates(matrix, costs, given, self.features(matrix, costs, given))

    @cached_property
    def table(self) -> Candidates:
        """All candidates within the limits."""
        matrix = self.space.enumerate()
        return self.candidates(matrix if self.allowed is None else matrix[self.within(matrix)])

    def random(self, rng: np.random.Generator, num: int, tries: int = 20) -> Indices:
        """About `num` random candidates within the limits; fewer where the limits are narrow."""
        if self.draw is not None:
            drawn = self.draw(rng, num)
            return drawn[self.within(drawn)]
        if self.allowed is None:
            return self.space.sample(rng, num)
        kept: list[Indices] = []
        for _ in range(tries):
            drawn = self.space.sample(rng, num)
            kept.append(drawn[self.within(drawn)])
            if sum(map(len, kept)) >= num:
                break
        return np.concatenate(kept)[:num]


def offspring(space: DecisionSpace, parents: Indices, rng: np.random.Generator, num: int) -> Indices:
    """Children (2 num, decisions): half uniform crossovers of two parents, half mutants with one to three changes."""
    sizes = np.array(space.sizes)
    a, b = parents[rng.integers(0, len(parents), num)], parents[rng.integers(0, len(parents), num)]
    crossed = np.where(rng.random(a.shape) < 0.5, a, b)
    free = max(1, int((sizes > 1).sum()))
    changed = (rng.random(a.shape) < rng.integers(1, 4, num)[:, None] / free) & (sizes > 1)
    mutated = np.where(changed, (a + rng.integers(1, np.maximum(sizes, 2), a.shape)) % sizes, a)
    rows = np.concatenate([crossed, mutated])
    inside = rows[members(space, rows)]
    return space.canonical(inside)


class Evolution:
    """A pool of candidates of a large space that follows the acquisition function.

    It starts from the front's neighbours, offspring of the front and of the last pool's best, and random candidates;
    in each generation the neighbours and offspring of the best so far join, until a generation brings nothing better.
    """

    def __init__(self, room: Room, num_random: int = 2000, num_best: int = 100, generations: int = 4) -> None:
        self._room = room
        self._num_random, self._num_best, self._generations = num_random, num_best, generations
        self._best: Indices = np.zeros((0, len(room.space.sizes)), dtype=np.int64)

    def run(
        self,
        front: Indices,
        closed: set[int],
        score: Callable[[Candidates], Floats],
        rng: np.random.Generator,
    ) -> tuple[Candidates, Floats]:
        """Candidates of all generations with their scores, best first; those closed and beyond limits left out.

        Args:
            front: non-dominated candidates evaluated so far (F, decisions).
            closed: their numbers and those of all others that must not be proposed.
            score: acquisition (N,) of candidates.
        """
        space = self._room.space
        seen = set(closed)
        parents = np.concatenate([front, self._best])
        start = [self._room.random(rng, self._num_random)]
        if len(parents):
            start.append(offspring(space, parents, rng, self._num_random // 2))
            near = front if len(front) <= 30 else front[rng.choice(len(front), 30, replace=False)]
            start += [space.neighbours(row) for row in near]
        fresh = self._fresh(np.concatenate(start), seen)
        parts: list[tuple[Candidates, Floats]] = []
        best = -np.inf
        for generation in range(self._generations + 1):
            if not len(fresh):
                break
            candidates = self._room.candidates(fresh)
            scores = score(candidates)
            parts.append((candidates, scores))
            top = _best(parts, self._num_best)
            if generation and scores.max() <= best:
                break
            best = max(best, float(scores.max()))
            self._best = top
            children = [offspring(space, top, rng, self._num_random // 4), *(space.neighbours(row) for row in top[:5])]
            fresh = self._fresh(np.concatenate(children), seen)
        if not parts:
            empty = np.zeros((0, len(space.sizes)), dtype=np.int64)
            return self._room.candidates(empty), np.zeros(0)
        return _joined(parts)

    def _fresh(self, matrix: Indices, seen: set[int]) -> Indices:
        """Candidates within the limits not met before, each once, canonical; they are added to `seen`."""
        rows = self._room.space.canonical(matrix)
        ranks = self._room.space.rank(rows).tolist()
        keep = []
        for i, rank in enumerate(ranks):
            if rank not in seen:
                seen.add(rank)
                keep.append(i)
        rows = rows[keep]
        return rows[self._room.within(rows)] if len(rows) else rows


def _joined(parts: Sequence[tuple[Candidates, Floats]]) -> tuple[Candidates, Floats]:
    scores = np.concatenate([part[1] for part in parts])
    order = np.argsort(-scores, kind="stable")
    all_of = [part[0] for part in parts]
    given = None if all_of[0].given is None else np.concatenate([c.given for c in all_of if c.given is not None])[order]
    return Candidates(
        np.concatenate([c.matrix for c in all_of])[order],
        np.concatenate([c.costs for c in all_of])[order],
        given,
        np.concatenate([c.features for c in all_of])[order],
    ), scores[order]


def _best(parts: Sequence[tuple[Candidates, Floats]], num: int) -> Indices:
    candidates, _ = _joined(parts)
    return candidates.matrix[:num]
