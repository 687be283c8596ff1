"""Exact costs of every option, and of candidates as sums over their stages."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.candidate import Candidate
from search_spaces.conditioning import example_conditioning, head_modules
from search_spaces.counting import MacCounter
from search_spaces.errors import UserError
from search_spaces.space import Indices, SearchSpace
from search_spaces.surgery import assemble, build_stage, stage_names, teacher_candidate
from search_spaces.unet import StageIO, UNet


@dataclass(frozen=True)
class CandidateCost:
    """Costs of one candidate's U-Net, for one forward pass."""

    num_params: int
    num_macs: int


@dataclass(frozen=True)
class CostTable:
    """Parameters and MACs per (stage, option), in the order of a search space.

    Parameters and MACs of the assembled network are exactly the sums, because stages share nothing
    but their inputs.

    Attributes:
        space: the search space whose options are listed.
        num_params: per stage an array (options,) of parameter counts.
        num_macs: per stage an array (options,) of MACs at the given latent size, tokens and batch.
        base_num_params, base_num_macs: input convolution, time embedding, output norm and convolution.
        teacher: cost of the teacher's own U-Net.
    """

    space: SearchSpace
    num_params: dict[str, NDArray[np.int64]]
    num_macs: dict[str, NDArray[np.int64]]
    base_num_params: int
    base_num_macs: int
    teacher: CandidateCost

    @classmethod
    def from_unet(cls, unet: UNet, space: SearchSpace, latent_size: int, num_tokens: int, batch: int = 1) -> CostTable:
        """Count every option of a space on a teacher's U-Net; nothing is computed, only shapes.

        Args:
            unet: the teacher's U-Net, on any device; its weights are not read.
            latent_size: height and width of the latents.
            num_tokens: text tokens.
            batch: samples in one forward pass.

        Raises:
            UserError: stages or options that this teacher does not have.
        """
        check_space(unet, space)
        meta = meta_copy(unet)
        record: dict[str, StageIO] = {}
        with MacCounter() as whole:
            trace(meta, teacher_candidate(meta), latent_size, num_tokens, batch, record)
        own = {stage: _stage_cost(build_stage(meta, stage, name, copy=False), record[stage].inputs)
               for stage, name in teacher_candidate(meta).options.items()}  # fmt: skip
        base_num_params = sum(p.numel() for name in head_modules(meta) for p in _parameters(getattr(meta, name)))
        base_num_macs = whole.num_macs - sum(cost.num_macs for cost in own.values())
        rows = {
            stage: [_stage_cost(build_stage(meta, stage, name, copy=False), record[stage].inputs) for name in names]
            for stage, names in space.options.items()
        }
        return cls(
            space=space,
            num_params={s: np.array([c.num_params for c in costs], dtype=np.int64) for s, costs in rows.items()},
            num_macs={s: np.array([c.num_macs for c in costs], dtype=np.int64) for s, costs in rows.items()},
            base_num_params=base_num_params,
            base_num_macs=base_num_macs,
            teacher=CandidateCost(base_num_params + sum(c.num_params for c in own.values()), whole.num_macs),
        )

    def params(self, matrix: Indices) -> NDArray[np.int64]:
        """Parameters (N,) of candidates given as an index matrix (N, decisions)."""
        return self._sum(self.num_params, self.base_num_params, matrix)

    def macs(self, matrix: Indices) -> NDArray[np.int64]:
        """MACs (N,) of candidates given as an index matrix (N, decisions)."""
        return self._sum(self.num_macs, self.base_num_macs, matrix)

    def cost(self, candidate: Candidate) -> CandidateCost:
        """Costs of one candidate of the space."""
        row = self.space.encode(candidate)[None]
        return CandidateCost(int(self.params(row)[0]), int(self.macs(row)[0]))

    def _sum(self, table: dict[str, NDArray[np.int64]], base: int, matrix: Indices) -> NDArray[np.int64]:
        total = np.full(len(matrix), base, dtype=np.int64)
        rows = self.space.stage_rows(matrix)
        for column, stage in enumerate(self.space.stages):
            total += table[stage][rows[:, column]]
        return total


def check_space(unet: UNet, space: SearchSpace) -> None:
    """Raise unless every option of the space can be built from this teacher, under its canonical name.

    Raises:
        UserError: other stages, or an option that the teacher cannot give, with what is legal.
    """
    from search_spaces.surgery import check_supported, parse_option

    check_supported(unet)
    if space.stages != stage_names(unet):
        raise UserError(
            f"search space {space.name!r} has stages {' '.join(space.stages)}; "
            f"this teacher's are {' '.join(stage_names(unet))}"
        )
    for stage, names in space.options.items():
        for name in names:
            canonical = parse_option(unet, stage, name).text
            if canonical != name:
                raise UserError(f"search space {space.name!r}: {stage}: write option {name!r} as {canonical!r}")


def meta_copy(unet: UNet) -> UNet:
    """The same architecture on the ``meta`` device: shapes without data."""
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(copy.deepcopy(dict(unet.config)))
    return model.eval()


def trace(
    unet: UNet,
    candidate: Candidate,
    latent_size: int,
    num_tokens: int,
    batch: int,
    record: dict[str, StageIO],
) -> None:
    """Run a candidate of a ``meta`` U-Net once, recording every stage's inputs and outputs."""
    width = unet.config.cross_attention_dim
    if not isinstance(width, int):
        raise UserError(f"unsupported teacher: cross_attention_dim {width!r} differs by stage; legal is one number")
    with torch.no_grad():
        assemble(unet, candidate, copy=False)(
            torch.empty(batch, unet.config.in_channels, latent_size, latent_size, device="meta"),
            torch.empty(batch, device="meta"),
            torch.empty(batch, num_tokens, width, device="meta"),
            added_cond_kwargs=example_conditioning(unet, batch, "meta"),
            record=record,
        )


def _parameters(module: Any) -> list[nn.Parameter]:
    return list(module.parameters()) if isinstance(module, nn.Module) else []


def _stage_cost(module: nn.Module, inputs: tuple[Tensor, ...]) -> CandidateCost:
    with torch.no_grad(), MacCounter() as counter:
        module(*inputs)
    return CandidateCost(sum(p.numel() for p in module.parameters()), counter.num_macs)
