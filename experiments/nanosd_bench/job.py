"""The job: trains blocks, then takes every candidate's paired errors; it goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.nanosd_bench.shards import NOISE, Part, Shards, Unit, latent_parts, units
from nas.config import Recipe, load_recipe
from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from experiments.nanosd_bench.shared_evaluator import SharedEvaluator


def bench_recipe() -> Recipe:
    """The recipe that the shipped table was made with."""
    folder = files("experiments.nanosd_bench")
    profile = f"calibration.profile={folder / 'device_profile.json'}"
    return load_recipe(Path(str(folder / "recipe.yaml")), [profile])


def existing(folder: Path) -> Job:
    """The job in a folder.

    Raises:
        UserError: none there.
    """
    if not (Path(folder) / "run" / "config.yaml").is_file():
        raise UserError(f"{folder}: holds no bench; start one with `python -m experiments.nanosd_bench run {folder}`")
    return Job(folder)


class Job:
    """One folder: `run/` with blocks and caches, `shards/`, `distilled/`.

    Args:
        folder: made when it is not there.
        recipe: of a new folder; one that exists keeps its own.
    """

    def __init__(self, folder: Path, recipe: Recipe | None = None) -> None:
        self.folder = Path(folder)
        directory = RunDirectory(self.folder / "run")
        if directory.config.is_file() and recipe is None:
            self.run = RunContext(directory.recipe(), directory)
        else:
            recipe = recipe or bench_recipe()
            directory.create(recipe)
            self.run = RunContext(recipe, directory)

    def prepare(self, progress: Progress) -> None:
        """Encode the data, take the profile over or measure one, train the blocks: what of it is not there yet."""
        from nas.run import phases

        phases.prepare(self.run, progress)
        phases.calibrate(self.run, progress)
        if not self.run.directory.blocks.is_file():
            phases.distill(self.run, progress)

    @cached_property
    def units(self) -> list[Unit]:
        return units(self.run.space)

    @cached_property
    def shards(self) -> Shards:
        """Keyed by everything that decides the errors: the comparison's inputs and the blocks' weights."""
        from nas.distill.checkpoint import module_digest

        blocks = self.run.blocks
        parts = [self.run.evaluator.key, self.run.space.name, module_digest(blocks[name] for name in sorted(blocks))]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        return Shards(self.folder / "shards", key)

    @cached_property
    def evaluator(self) -> SharedEvaluator:
        """Of this job's blocks."""
        from experiments.nanosd_bench.shared_evaluator import SharedEvaluator

        run = self.run
        return SharedEvaluator(run.teacher, run.space, run.blocks, run.evaluator, self.folder)

    @property
    def latent_parts(self) -> list[Part]:
        """All blocks of samples, in order."""
        return latent_parts(self.run.recipe.fidelity.num_samples)

    def evaluate(self, parts: Sequence[Part], progress: Progress) -> None:
        """Compute the parts that are not there, unit by unit."""
        shards, evaluator = self.shards, self.evaluator
        per_unit = len(self.run.space.options["D2"]) * len(self.run.space.options["D1"])
        for part in parts:
            with progress.phase(part.name, self.run.space.num_candidates) as phase:
                missing = [unit for unit in self.units if not shards.has(part, unit)]
                phase.skip(per_unit * (len(self.units) - len(missing)))
                start = time.process_time()
                for number, unit in enumerate(missing, start=1):
                    if part == NOISE:
                        errors = evaluator.noise_errors(unit.options)
                    else:
                        errors = evaluator.latent_errors(unit.options, part.start)
                    shards.write(part, unit, errors)
                    each = 1000 * (time.process_time() - start) / number / per_unit
                    phase.advance(per_unit, **{"": f"{each:.0f} ms of CPU a candidate"})
