"""Search spaces: ordered stages with their options, candidates as index vectors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

Indices = NDArray[np.int64]


class SearchSpace(BaseModel):
    """Options of every stage, as data.

    A candidate is an index vector with one entry per stage, in the order of :attr:`stages`. Every
    combination of options is valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    description: str = ""
    options: dict[str, tuple[str, ...]]
    candidates: dict[str, str] = Field(default_factory=dict)
    """Named candidates (hand-made layouts): name to candidate id."""

    def model_post_init(self, _context: Any) -> None:
        if not self.options:
            raise UserError(f"search space {self.name!r} has no stages; give 'options' a list for each stage")
        for stage, names in self.options.items():
            if not names:
                raise UserError(f"search space {self.name!r}: stage {stage} has no options; give it at least one")
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise UserError(f"search space {self.name!r}: stage {stage} lists {repeated[0]!r} twice; list it once")
        for name in self.candidates:
            self.named(name)

    @property
    def stages(self) -> tuple[str, ...]:
        """Stage names in the order in which data flows."""
        return tuple(self.options)

    @property
    def free_stages(self) -> tuple[str, ...]:
        """Stages with a choice."""
        return tuple(stage for stage, names in self.options.items() if len(names) > 1)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of options per stage."""
        return tuple(len(names) for names in self.options.values())

    @property
    def num_candidates(self) -> int:
        """Number of candidates: the product of the stages' options."""
        product = 1
        for size in self.sizes:
            product *= size
        return product

    def named(self, name: str) -> Candidate:
        """A named candidate of the preset.

        Raises:
            UserError: no such name, or a candidate id that is not in this space.
        """
        if name not in self.candidates:
            known = ", ".join(self.candidates) or "none"
            raise UserError(f"search space {self.name!r} names no candidate {name!r}; legal are: {known}")
        candidate = Candidate.from_id(self.candidates[name], self.stages)
        self.encode(candidate)
        return candidate

    def encode(self, candidate: Candidate) -> Indices:
        """Index vector (stages,) of a candidate.

        Raises:
            UserError: other stages, or an option that this space does not have.
        """
        if tuple(candidate.options) != self.stages:
            raise UserError(
                f"candidate {candidate.id!r} has stages {' '.join(candidate.options)}; "
                f"search space {self.name!r} has {' '.join(self.stages)}"
            )
        indices = []
        for stage, name in candidate.options.items():
            if name not in self.options[stage]:
                raise UserError(
                    f"option {name!r} of stage {stage} is not in search space {self.name!r}; "
                    f"legal are {', '.join(self.options[stage])}"
                )
            indices.append(self.options[stage].index(name))
        return np.array(indices, dtype=np.int64)

    def contains(self, candidate: Candidate) -> bool:
        """Whether the candidate is one of this space."""
        return tuple(candidate.options) == self.stages and all(
            name in self.options[stage] for stage, name in candidate.options.items()
        )

    def decode(self, indices: Any) -> Candidate:
        """Candidate of an index vector (stages,).

        Raises:
            UserError: wrong length, or an index outside its stage's options.
        """
        vector = [int(i) for i in indices]
        if len(vector) != len(self.stages) or any(not 0 <= i < n for i, n in zip(vector, self.sizes, strict=False)):
            raise UserError(
                f"index vector {vector} is outside search space {self.name!r} with sizes {list(self.sizes)}"
            )
        return Candidate(options={s: self.options[s][i] for s, i in zip(self.stages, vector, strict=True)})

    def enumerate(self) -> Indices:
        """All candidates (num_candidates, stages), the last stage varying fastest."""
        return np.stack(np.unravel_index(np.arange(self.num_candidates), self.sizes), axis=1).astype(np.int64)

    def rank(self, matrix: Indices) -> NDArray[np.int64]:
        """Row numbers in :meth:`enumerate` of an index matrix (N, stages)."""
        return np.ravel_multi_index(tuple(np.asarray(matrix).T), self.sizes).astype(np.int64)

    def sample(self, rng: np.random.Generator, num: int) -> Indices:
        """Independent uniform candidates (num, stages)."""
        return rng.integers(0, np.array(self.sizes), size=(num, len(self.sizes)), dtype=np.int64)

    def neighbours(self, indices: Indices) -> Indices:
        """All candidates that differ in exactly one stage (sum of sizes - stages, stages)."""
        rows = []
        for column, size in enumerate(self.sizes):
            for value in range(size):
                if value != indices[column]:
                    row = np.array(indices, dtype=np.int64)
                    row[column] = value
                    rows.append(row)
        return np.array(rows, dtype=np.int64).reshape(-1, len(self.sizes))


def preset_names() -> tuple[str, ...]:
    """Names of the search spaces that come with the package."""
    folder = resources.files("search_spaces") / "presets"
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_space(name_or_path: str) -> SearchSpace:
    """A preset by name, or a search space from a YAML file.

    Raises:
        UserError: neither a preset nor a file, not YAML, or fields that a search space does not have.
    """
    if name_or_path in preset_names():
        text = (resources.files("search_spaces") / "presets" / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"search space {name_or_path!r} cannot be read ({error}); give a YAML file in UTF-8"
            ) from None
    else:
        raise UserError(
            f"unknown search space {name_or_path!r}; legal are {', '.join(preset_names())} or the path of a YAML file"
        )
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"search space {name_or_path!r} is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"search space {name_or_path!r} is nested too deeply; write it as in the presets") from None
    if not isinstance(data, Mapping):
        raise UserError(f"search space {name_or_path!r} must be a YAML mapping with name and options")
    try:
        return SearchSpace.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        legal = ", ".join(SearchSpace.model_fields)
        raise UserError(f"search space {name_or_path!r}: {where}: {first['msg']}; fields are {legal}") from None
