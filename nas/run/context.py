"""What the phases of a run share, loaded when first needed: teacher, space, costs, data, trained blocks."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.config import Recipe
from nas.run.directory import RunDirectory
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from latency_predictors.latency_table import LatencyTable
    from latency_predictors.models.base import Prediction
    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile import DeviceProfile
    from nas.block_bank import BlockBank
    from nas.data import Batch, LatentDataset
    from nas.distill.settings import AlignSettings, DistillSettings
    from nas.fidelity.paired import PairedEvaluator
    from nas.fidelity.settings import FidelitySettings
    from nas.latency import DeviceFacts
    from nas.search.settings import KnownCosts
    from nas.search.store import CandidateStore
    from nas.teacher import Teacher
    from search_spaces.costs import CostTable
    from search_spaces.space import SearchSpace


class RunContext:
    """A run's recipe and directory, and the objects that they stand for."""

    def __init__(self, recipe: Recipe, directory: RunDirectory) -> None:
        self.recipe = recipe
        self.directory = directory

    @classmethod
    def open(cls, run_dir: Path | str) -> RunContext:
        """The context of a run that exists.

        Raises:
            UserError: no run there.
        """
        directory = RunDirectory(run_dir)
        return cls(directory.recipe(), directory)

    @cached_property
    def recipe_hash(self) -> str:
        return self.directory.recipe_hash(self.recipe)

    @cached_property
    def teacher(self) -> Teacher:
        from nas.teacher import load_teacher

        return load_teacher(self.recipe.teacher)

    @cached_property
    def space(self) -> SearchSpace:
        """The search space.

        Raises:
            UserError: none of that name, or one of whole pipelines, which no run searches yet.
        """
        from search_spaces.space_file import load_space

        space = load_space(self.recipe.space)
        check_unet_space(space)
        return space

    @cached_property
    def costs(self) -> CostTable:
        """Exact parameters and MACs of every option, for one latent and batch 1."""
        from search_spaces.costs import CostTable

        return CostTable.from_unet(self.teacher.unet, self.space, self.teacher.latent_size, self.teacher.num_tokens)

    @cached_property
    def shape_costs(self) -> CostTable:
        """:attr:`costs` from the teacher's configurations alone: no weights are read.

        Raises:
            UserError: a teacher that is not there any more, or a space that does not fit it.
        """
        from nas.teacher_shapes import teacher_shapes
        from search_spaces.costs import CostTable

        shapes = teacher_shapes(self.recipe.teacher)
        return CostTable.from_unet(shapes.unet, self.space, shapes.latent_size, shapes.num_tokens)

    @cached_property
    def dataset(self) -> LatentDataset:
        """Latents and captions that blocks are distilled on; encoded once per run."""
        from nas.run.dataset import cached_latents

        return cached_latents(self.teacher, self.recipe, self.directory.work)

    @cached_property
    def bank(self) -> BlockBank:
        from nas.block_bank import BlockBank

        return BlockBank(self.directory.bank)

    @cached_property
    def blocks(self) -> dict[tuple[str, str], nn.Module]:
        """Trained surrogate blocks by (stage, option), frozen.

        Raises:
            UserError: not distilled yet, or a damaged bank file.
        """
        from nas.distill.blocks import load_blocks, read_results

        if not self.directory.blocks.is_file():
            raise UserError(f"run {self.directory.path} has no trained blocks yet; nanosd resume {self.directory.path}")
        return load_blocks(self.teacher.unet, read_results(self.directory.blocks), self.bank)

    @cached_property
    def evaluator(self) -> PairedEvaluator:
        from nas.fidelity.paired import PairedEvaluator

        cache = self.directory.work / "fidelity.safetensors"
        return PairedEvaluator(self.teacher, self.dataset, self.fidelity_settings, self.recipe.seed, cache)

    @cached_property
    def profile(self) -> DeviceProfile | NpuProfile:
        """The run's device profile.

        Raises:
            UserError: not calibrated yet, or a damaged profile.
        """
        from latency_predictors.profile_file import load_profile

        if not self.directory.profile.is_file():
            raise UserError(f"run {self.directory.path} is not calibrated yet; nanosd resume {self.directory.path}")
        return load_profile(self.directory.profile)

    @cached_property
    def latency(self) -> LatencyTable:
        """Latency of any candidate on the run's device, by its profile.

        Raises:
            UserError: as :attr:`profile`, or a profile that is not of the run's search space.
        """
        from nas.latency import latency_table

        return latency_table(self.profile, self.space, self.recipe.teacher)

    @cached_property
    def device(self) -> DeviceFacts:
        """The device that the run's latencies are of."""
        from nas.latency import device_facts

        return device_facts(self.profile)

    @cached_property
    def teacher_latency(self) -> Prediction | None:
        """The teacher's own latency (1,) on the run's device; None where the profile does not know its options."""
        from nas.latency import latency_table
        from search_spaces.space import SearchSpace
        from search_spaces.surgery import teacher_candidate

        own = teacher_candidate(self.teacher.unet)
        space = SearchSpace(name="teacher", options={stage: [option] for stage, option in own.options.items()})
        try:
            return latency_table(self.profile, space, self.recipe.teacher).predict(space.encode(own)[None])
        except UserError:
            return None

    @property
    def store(self) -> CandidateStore:
        from nas.search.store import CandidateStore

        return CandidateStore(self.directory.store)

    @cached_property
    def known_costs(self) -> KnownCosts:
        """Predicted latency, parameters and MACs of any candidate."""
        from nas.search.settings import KnownCosts

        return KnownCosts(
            latency_ms=self.latency.latency_ms,
            num_params=self.costs.params,
            num_macs=self.costs.macs,
        )

    def batches(self, batch_size: int) -> Any:
        """Source of training batches addressed by step: ``source(k)`` yields from step k on."""
        from nas.data import batches

        def source(step: int) -> Iterator[Batch]:
            return batches(self.dataset, self.teacher, batch_size, self.recipe.seed, step)

        return source

    @property
    def distill_settings(self) -> DistillSettings:
        from nas.distill.settings import DistillSettings

        not_of_a_block = {"min_gain", "workers", "cpus_per_worker", "gpus_per_worker"}
        return DistillSettings(seed=self.recipe.seed, **self.recipe.distill.model_dump(exclude=not_of_a_block))

    @property
    def align_settings(self) -> AlignSettings:
        from nas.distill.settings import AlignSettings

        return AlignSettings(seed=self.recipe.seed, **self.recipe.finalize.model_dump())

    @property
    def fidelity_settings(self) -> FidelitySettings:
        from nas.fidelity.settings import FidelitySettings

        return FidelitySettings(**self.recipe.fidelity.model_dump())


def check_unet_space(space: SearchSpace) -> None:
    """Raise unless the candidates are U-Nets: runs measure, search and score those only.

    Raises:
        UserError: candidates are pipelines.
    """
    if space.is_pipeline:
        raise UserError(
            f"search space {space.name!r} has decisions beyond the U-Net ({', '.join(space.stages[-3:])}), which runs "
            "do not search; give one of U-Nets such as nanosd, whose pick gets a VAE by `nanosd finalize`, or build "
            "single candidates with `nanosd build`"
        )
