"""The table as it is being made: one small file for every group of candidates and every block of samples.

A unit is what one prefix (options of E1, E2, E3 and D3) and all options of D2 and D1 make: 512 units of 64 candidates.
Units are taken in an order shuffled by a seed, so that an unfinished table is an even sample of the space.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nas.atomic import read_tensors, write_tensors

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

Floats = npt.NDArray[np.float64]
SAMPLES = 16
"""Samples that are computed together: the floats of one AVX-512 register."""
PREFIX = ("E1", "E2", "E3", "D3")


@dataclass(frozen=True)
class Unit:
    """Number and options of a prefix."""

    number: int
    options: dict[str, str]


def units(space: SearchSpace, seed: int = 0) -> list[Unit]:
    """All units, shuffled."""
    every = itertools.product(*(space.options[stage] for stage in PREFIX))
    listed = [Unit(number, dict(zip(PREFIX, options, strict=True))) for number, options in enumerate(every)]
    return [listed[i] for i in np.random.default_rng(seed).permutation(len(listed))]


@dataclass(frozen=True)
class Part:
    """One share of every candidate's errors: of the noise predictions, or of 16 sampled latents from `start` on."""

    name: str
    start: int = 0


NOISE = Part("noise")


def latent_parts(num_samples: int) -> list[Part]:
    """Blocks of 16 samples, one after the other."""
    return [Part(f"latent-{start:03d}", start) for start in range(0, num_samples, SAMPLES)]


class Shards:
    """A folder of finished parts; whatever is in it and of this `key` is never computed again."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def path(self, part: Part, unit: Unit) -> Path:
        return self.folder / part.name / f"{unit.number:04d}.safetensors"

    def has(self, part: Part, unit: Unit) -> bool:
        return self.path(part, unit).is_file()

    def write(self, part: Part, unit: Unit, errors: Floats) -> None:
        """Store errors: (D2 options, D1 options) for noise, (D2 options, D1 options, samples) for latents."""
        import torch

        path = self.path(part, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensor = torch.from_numpy(np.asarray(errors, dtype=np.float32))
        write_tensors(path, {"errors": tensor}, {"key": self.key, **unit.options})

    def read(self, part: Part, unit: Unit) -> Floats | None:
        """What `write` stored; None where there is none, or of other blocks or inputs."""
        found = read_tensors(self.path(part, unit), self.key)
        return None if found is None else found[1]["errors"].numpy().astype(np.float64)

    def finished(self, part: Part, every: list[Unit]) -> Iterator[Unit]:
        """The units of which this part is there."""
        return (unit for unit in every if self.has(part, unit))
