"""Search spaces: ordered decisions with their values, candidates as index vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from search_spaces.candidate import MAX_SHOWN, Candidate
from search_spaces.decisions import Decision, StageChoices, StageTable, stage_table
from search_spaces.errors import UserError, shown
from search_spaces.vae_option import STEPS, TEACHER, VAE_DECODER, VAE_ENCODER

Indices = NDArray[np.int64]
MAX_ENUMERATED = 20_000_000
NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # files are named after spaces: nothing in it leads to another folder
MAX_NAME = 100
_BLOCK = 4096  # rows at a time, which stay in the processor's cache


class SearchSpace(BaseModel):
    """Ordered decisions of every stage, as data.

    A candidate is an index vector with one entry per decision, in the order of :attr:`decisions`. Every
    combination is valid. Where combinations of a stage's decisions make the same network, one of them is
    canonical; candidates are counted, listed and sampled as distinct networks.

    A search space whose stages include any of ``VE`` (VAE encoder), ``VD`` (VAE decoder) and ``steps``
    (denoising steps) is one of whole pipelines, and has all three; those not given are the teacher's own
    and one step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, use_attribute_docstrings=True)

    name: str = Field(pattern=NAME_PATTERN, max_length=MAX_NAME)
    """Name of the search space: letters, digits, ``_``, ``.`` and ``-``, the first a letter or digit."""
    description: str = ""
    """One line for people."""
    choices: dict[str, StageChoices] = Field(alias="options")
    """What may be chosen, by stage in the order of the data: E1, ..., deep, ..., D1, then VE, VD, steps."""
    candidates: dict[Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME)], str] = Field(
        default_factory=dict
    )
    """Named candidates (hand-made layouts): name to candidate id."""

    @model_validator(mode="before")
    @classmethod
    def _whole_pipelines(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or not isinstance(data.get("options"), Mapping):
            return data
        given = data["options"]
        extra = {VAE_ENCODER: [TEACHER], VAE_DECODER: [TEACHER], STEPS: ["1"]}
        if not set(extra) & set(given):
            return data
        unet = {stage: choices for stage, choices in given.items() if stage not in extra}
        return {**data, "options": {**unet, **{stage: given.get(stage, default) for stage, default in extra.items()}}}

    def model_post_init(self, _context: Any) -> None:
        if not self.choices:
            raise UserError(f"search space {self.name!r} has no stages; give 'options' a list for each stage")
        try:
            self._tables  # noqa: B018  expands, and so checks, every stage
        except UserError as error:
            raise UserError(f"search space {self.name!r}: {error}") from None
        for name in self.candidates:
            self.named(name)

    @cached_property
    def _tables(self) -> dict[str, StageTable]:
        return {stage: stage_table(stage, choices) for stage, choices in self.choices.items()}

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names in the order in which data flows."""
        return tuple(self.choices)

    @cached_property
    def options(self) -> dict[str, tuple[str, ...]]:
        """Distinct options of every stage."""
        return {stage: table.options for stage, table in self._tables.items()}

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """All decisions: the columns of an index matrix."""
        return tuple(decision for table in self._tables.values() for decision in table.decisions)

    @property
    def free_decisions(self) -> tuple[Decision, ...]:
        """Decisions with a choice."""
        return tuple(decision for decision in self.decisions if len(decision.values) > 1)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of values per decision."""
        return tuple(len(decision.values) for decision in self.decisions)

    @cached_property
    def stage_sizes(self) -> tuple[int, ...]:
        """Number of distinct options per stage."""
        return tuple(len(names) for names in self.options.values())

    @property
    def num_candidates(self) -> int:
        """Number of candidates (distinct networks): the product of the stages' distinct options."""
        return math.prod(self.stage_sizes)

    @property
    def is_pipeline(self) -> bool:
        """Whether candidates are whole pipelines (VAE and step count included) or U-Nets."""
        return STEPS in self.choices

    def named(self, name: str) -> Candidate:
        """A named candidate of the preset.

        Raises:
            UserError: no such name, or a candidate id that is not in this space.
        """
        if name not in self.candidates:
            known = ", ".join(self.candidates) or "none"
            raise UserError(f"search space {self.name!r} names no candidate {shown(name)}; legal are: {known}")
        candidate = Candidate.from_id(self.candidates[name], self.stages)
        self.encode(candidate)
        return candidate

    def encode(self, candidate: Candidate) -> Indices:
        """Canonical index vector (decisions,) of a candidate.

        Raises:
            UserError: other stages, or an option that this space does not have.
        """
        if tuple(candidate.options) != self.stages:
            raise UserError(
                f"candidate {shown(candidate.id, MAX_SHOWN)} has stages {' '.join(candidate.options)}; "
                f"search space {self.name!r} has {' '.join(self.stages)}"
            )
        rows = []
        for stage, name in candidate.options.items():
            if name not in self.options[stage]:
                raise UserError(
                    f"option {shown(name)} of stage {stage} is not in search space {self.name!r}; "
                    f"legal are {listed(self.options[stage])}"
                )
            rows.append(self.options[stage].index(name))
        return self.from_stage_rows(np.array([rows], dtype=np.int64))[0]

    def contains(self, candidate: Candidate) -> bool:
        """Whether the candidate is one of this space."""
        return tuple(candidate.options) == self.stages and all(
            name in self.options[stage] for stage, name in candidate.options.items()
        )

    def decode(self, indices: Any) -> Candidate:
        """Candidate of an index vector (decisions,).

        Raises:
            UserError: wrong length, or an index outside its decision's values.
        """
        vector = [int(i) for i in indices]
        if len(vector) != len(self.sizes) or any(not 0 <= i < n for i, n in zip(vector, self.sizes, strict=False)):
            raise UserError(
                f"index vector {shown(vector)} is outside search space {self.name!r} with sizes {list(self.sizes)}"
            )
        rows = self.stage_rows(np.array([vector], dtype=np.int64))[0]
        return Candidate(options={s: self.options[s][i] for s, i in zip(self.stages, rows, strict=True)})

    def checked(self, matrix: Indices) -> Indices:
        """The matrix itself, an index matrix (N, decisions) of whole numbers within :attr:`sizes`.

        Raises:
            UserError: another shape, numbers of another kind, or an index outside its decision's values.
        """
        indices = np.asarray(matrix)
        if indices.ndim != 2 or indices.shape[1] != len(self.sizes):
            raise UserError(
                f"index matrix of shape {indices.shape}: search space {self.name!r} has {len(self.sizes)} decisions; "
                f"legal is (candidates, {len(self.sizes)})"
            )
        if not np.issubdtype(indices.dtype, np.integer):
            raise UserError(f"index matrix of {indices.dtype}; legal are whole numbers, such as int64")
        if len(indices) and (indices.min() < 0 or (indices.max(axis=0) >= np.array(self.sizes)).any()):
            row, column = np.argwhere((indices < 0) | (indices >= np.array(self.sizes)))[0]
            raise UserError(
                f"index {indices[row, column]} of {self.decisions[column].name} in row {row} is outside search space "
                f"{self.name!r}; legal are 0 to {self.sizes[column] - 1}"
            )
        return indices

    def stage_rows(self, matrix: Indices) -> Indices:
        """Option numbers (N, stages), into :attr:`options`, of an index matrix (N, decisions).

        Raises:
            UserError: as :meth:`checked`.
        """
        indices = self.checked(matrix)
        rows = np.empty((len(self._tables), len(indices)), dtype=np.int64)  # a stage's numbers side by side
        for start in range(0, len(indices), _BLOCK):
            block = slice(start, start + _BLOCK)
            combinations = (self._strides @ indices[block].T.astype(np.float32)).astype(np.int64)
            for number, table in enumerate(self._tables.values()):
                rows[number, block] = table.option_of[combinations[number]]
        return rows.T

    @cached_property
    def _strides(self) -> NDArray[np.float32]:
        """(stages, decisions): how far one step of a decision goes in the combinations of its stage, else 0.

        One product with an index matrix in single precision is several times faster than integers column by column,
        and exact: a stage has at most ``MAX_STAGE_COMBINATIONS`` combinations, far fewer than 2^24.
        """
        strides = np.zeros((len(self._tables), len(self.sizes)), dtype=np.float32)
        start = 0
        for row, table in zip(strides, self._tables.values(), strict=True):
            stop = start + len(table.sizes)
            row[start:stop] = np.cumprod([1, *reversed(table.sizes[1:])])[::-1]
            start = stop
        return strides

    def from_stage_rows(self, rows: Indices) -> Indices:
        """Canonical index matrix (N, decisions) of option numbers (N, stages)."""
        parts = [table.first[np.asarray(rows)[:, i]] for i, table in enumerate(self._tables.values())]
        return np.concatenate(parts, axis=1)

    def canonical(self, matrix: Indices) -> Indices:
        """The same candidates (N, decisions), each as the one vector that stands for all equivalent ones."""
        return self.from_stage_rows(self.stage_rows(matrix))

    def enumerate(self) -> Indices:
        """All candidates (num_candidates, decisions), canonical, the last stage varying fastest.

        Raises:
            UserError: more candidates than fit into memory; see :meth:`chunks`.
        """
        if self.num_candidates > MAX_ENUMERATED:
            raise UserError(
                f"search space {self.name!r} has {self.num_candidates:,} candidates, too many to list at once "
                f"(at most {MAX_ENUMERATED:,}); go through them in chunks or draw a sample"
            )
        return self.unrank(np.arange(self.num_candidates))

    def chunks(self, size: int = 100_000) -> Iterator[Indices]:
        """All candidates as :meth:`enumerate` lists them, ``size`` at a time."""
        for start in range(0, self.num_candidates, size):
            yield self.unrank(np.arange(start, min(start + size, self.num_candidates)))

    def unrank(self, ranks: NDArray[np.int64]) -> Indices:
        """Canonical candidates (N, decisions) by their numbers (N,) in :meth:`enumerate`."""
        rest = np.asarray(ranks, dtype=np.int64 if self.num_candidates < 2**63 else object)
        rows = np.empty((len(rest), len(self.stage_sizes)), dtype=np.int64)
        for column in reversed(range(len(self.stage_sizes))):
            rows[:, column] = rest % self.stage_sizes[column]
            rest = rest // self.stage_sizes[column]
        return self.from_stage_rows(rows)

    def rank(self, matrix: Indices) -> NDArray[np.int64]:
        """Numbers (N,) in :meth:`enumerate` of an index matrix (N, decisions); equal for equivalent vectors.

        Python integers (an object array) for spaces of 2^63 candidates and more.
        """
        rows = self.stage_rows(matrix)
        total: NDArray[Any] = np.zeros(len(rows), dtype=np.int64 if self.num_candidates < 2**63 else object)
        for column, size in enumerate(self.stage_sizes):
            total = total * size + rows[:, column]
        return total

    def sample(self, rng: np.random.Generator, num: int) -> Indices:
        """Independent candidates (num, decisions), uniform over distinct networks, canonical."""
        return self.from_stage_rows(rng.integers(0, np.array(self.stage_sizes), size=(num, len(self.stage_sizes))))

    def neighbours(self, indices: Indices) -> Indices:
        """Every other candidate that one changed decision makes of an index vector (decisions,), once each.

        Returns:
            (M, decisions). Each vector differs from the given one in exactly one decision, and its candidate is
            neither the given one's nor that of another row. For that, not all are canonical, and from canonical
            vectors being a neighbour is not symmetric: one step leads from RARA with half the feed-forward width to
            R, but back from R, whose canonical vector has the first width listed, only to RARA with that width.
            Where no two vectors stand for the same candidate it is symmetric.

        Raises:
            UserError: as :meth:`checked`.
        """
        vector = self.checked(np.asarray(indices)[None])[0]
        rows = np.repeat(vector[None].astype(np.int64), sum(self.sizes), axis=0)
        columns = np.repeat(np.arange(len(self.sizes)), self.sizes)
        rows[np.arange(len(rows)), columns] = np.concatenate([np.arange(size) for size in self.sizes])
        ranks = self.rank(rows)
        own = self.rank(vector[None])[0]
        _, first = np.unique(ranks, return_index=True)
        return rows[[i for i in sorted(first) if ranks[i] != own]]


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, the first ones of many."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"
