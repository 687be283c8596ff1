"""Costs of every option of a space, from a teacher's architecture alone: nothing is computed but shapes."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from search_spaces.candidate import Candidate
from search_spaces.conditioning import example_conditioning, text_width
from search_spaces.errors import UserError
from search_spaces.layer_traces import LayerTraces, NumParams, StageCost, blank
from search_spaces.liveness import AFTER, Life, Liveness
from search_spaces.space import SearchSpace
from search_spaces.surgery import (
    assemble,
    build_stage,
    check_supported,
    parse_option,
    stage_names,
    teacher_candidate,
)
from search_spaces.tracing import Recorder, Trace
from search_spaces.unet import StageIO, UNet
from search_spaces.vae import VAE, build_vae_stage, check_vae_supported, num_vae_levels, tiny_vae_stage
from search_spaces.vae import parse_option as parse_vae_stage
from search_spaces.vae_option import STEPS, TEACHER, VAE_ENCODER, VAE_STAGES

Size: TypeAlias = int | tuple[int, int]
"""Height and width of the latents, or one number for both."""


@dataclass(frozen=True)
class HeadCost:
    """Cost of what every U-Net of a teacher has outside of its stages.

    Attributes:
        params: of input convolution, time embedding, output norm and output convolution.
        trace: their operators, in one pass of the U-Net; the stages between them have none.
        peak: most activation elements alive before the first stage or after the last, network inputs left out.
        network_inputs: elements of latents, time steps, text and whatever else the U-Net is given.
    """

    params: NumParams
    trace: Trace
    peak: int
    network_inputs: int

    @property
    def sums(self) -> Counter[str]:
        """Sums over its operators."""
        return self.trace.sums


@dataclass(frozen=True)
class StageCosts:
    """Costs of all options of a space, by stage in the order of its options, and of the teacher's own."""

    options: Mapping[str, list[StageCost]]
    teacher: Mapping[str, StageCost]
    teacher_options: Mapping[str, str]
    head: HeadCost


def stage_costs(
    unet: UNet, space: SearchSpace, latent_size: Size, num_tokens: int, batch: int, vae: VAE | None
) -> StageCosts:
    """Costs of every option; see :meth:`search_spaces.costs.CostTable.from_unet`."""
    check_space(unet, space, vae)
    size = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
    traces = LayerTraces()
    meta = meta_copy(unet)
    with _room_to_normalise("the teacher itself", size, batch):
        calls, head = _head(meta, size, num_tokens, batch, traces)

    def unet_stage(stage: str, name: str) -> StageCost:
        option = parse_option(meta, stage, name)
        call = calls[stage]
        module = build_stage(meta, stage, option.word.text, copy=False)
        with _room_to_normalise(f"{stage}: option {name!r}", size, batch):
            cost = traces.stage_cost(module, call.inputs, call.kwargs, option.internals)
        # Stages add up because every option lays out its outputs as the teacher does, whose calls these are.
        assert cost.contiguous, f"{stage}: the outputs of {name!r} are not contiguous"
        return cost

    options = {s: [unet_stage(s, name) for name in space.options[s]] for s in stage_names(meta)}
    teacher_options = teacher_candidate(meta).options
    teacher = {s: unet_stage(s, name) for s, name in teacher_options.items()}
    if space.is_pipeline:
        assert vae is not None
        vae_meta = meta_vae(vae)
        options |= {
            s: [_vae_stage(vae_meta, s, name, size, batch, traces) for name in space.options[s]] for s in VAE_STAGES
        }
        teacher_options |= dict.fromkeys(VAE_STAGES, TEACHER)
        teacher |= {s: _vae_stage(vae_meta, s, TEACHER, size, batch, traces) for s in VAE_STAGES}
    return StageCosts(options, teacher, teacher_options, head)


def vae_stage_cost(vae: VAE, stage: str, name: str, latent_size: Size) -> StageCost:
    """Cost of one option of the VAE's encoder or decoder on one image, without a search space around it.

    Raises:
        UserError: an option that this VAE's interface does not allow.
    """
    size = (latent_size, latent_size) if isinstance(latent_size, int) else latent_size
    return _vae_stage(meta_vae(vae), stage, name, size, 1, LayerTraces())


def _vae_stage(
    vae_meta: VAE, stage: str, name: str, size: tuple[int, int], batch: int, traces: LayerTraces
) -> StageCost:
    levels = parse_vae_stage(vae_meta, stage, name).levels
    if levels is None:
        module = build_vae_stage(vae_meta, stage, name, copy=False)
    else:
        module = tiny_vae_stage(vae_meta, stage, levels, traces.make)
    with _room_to_normalise(f"{stage}: option {name!r}", size, batch):
        return traces.stage_cost(module, (vae_input(vae_meta, stage, size, batch),))


@contextmanager
def _room_to_normalise(what: str, size: tuple[int, int], batch: int) -> Iterator[None]:
    """Turn PyTorch's refusal of norm groups that hold a single value into one line."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise UserError(
            f"{what} normalises groups of a single value on latents of {size[0]} x {size[1]} in batches of {batch}: "
            "it needs larger latents, a larger batch or more channels a group"
        ) from None


def check_space(unet: UNet, space: SearchSpace, vae: VAE | None = None) -> None:
    """Raise unless every option of the space can be built from this teacher, under its canonical name.

    Args:
        unet: the teacher's U-Net.
        space: the space.
        vae: the teacher's VAE; without it the options of VE and VD are left unchecked.

    Raises:
        UserError: other stages, or an option that the teacher cannot give, with what is legal.
    """
    check_supported(unet)
    own = stage_names(unet)
    expected = (*own, *VAE_STAGES, STEPS) if space.is_pipeline else own
    if space.stages != expected:
        raise UserError(
            f"search space {space.name!r} has stages {' '.join(space.stages)}; this teacher's are {' '.join(expected)}"
        )
    for stage in own:
        for name in space.options[stage]:
            canonical = parse_option(unet, stage, name).text
            if canonical != name:
                raise UserError(f"search space {space.name!r}: {stage}: write option {name!r} as {canonical!r}")
    if vae is not None and space.is_pipeline:
        check_vae_supported(vae)
        for stage in VAE_STAGES:
            for name in space.options[stage]:
                parse_vae_stage(vae, stage, name)


def meta_copy(unet: UNet) -> UNet:
    """The same architecture on the ``meta`` device: shapes without data."""
    with torch.device("meta"):
        model = UNet2DConditionModel.from_config(copy.deepcopy(dict(unet.config)))
    return model.eval()


def meta_vae(vae: VAE) -> VAE:
    """The same VAE on the ``meta`` device."""
    with torch.device("meta"):
        model = AutoencoderKL.from_config(copy.deepcopy(dict(vae.config)))
    return model.eval()


def unet_inputs(unet: UNet, size: Size, num_tokens: int, batch: int) -> tuple[Tensor, ...]:
    """Latents, time steps and text for a U-Net on ``meta``.

    Raises:
        UserError: text of different widths by level, or a size, tokens or batch below one.
    """
    width = text_width(unet.config)
    height_width = (size, size) if isinstance(size, int) else size
    if min(*height_width, num_tokens, batch) < 1:
        raise UserError(
            f"latents of {height_width[0]} x {height_width[1]}, {num_tokens} text tokens and batch {batch}: "
            "legal are whole numbers from 1"
        )
    return (
        torch.empty(batch, unet.config.in_channels, *height_width, device="meta"),
        torch.empty(batch, device="meta"),
        torch.empty(batch, num_tokens, width, device="meta"),
    )


def vae_input(vae: VAE, stage: str, size: tuple[int, int], batch: int) -> Tensor:
    """Images for ``VE``, latents for ``VD``, on ``meta``; ``size`` is that of the latents."""
    if stage == VAE_ENCODER:
        factor = 2 ** (num_vae_levels(vae) - 1)
        return torch.empty(batch, vae.config.in_channels, size[0] * factor, size[1] * factor, device="meta")
    return torch.empty(batch, vae.config.latent_channels, *size, device="meta")


def trace(
    unet: UNet, candidate: Candidate, latent_size: Size, num_tokens: int, batch: int, record: dict[str, StageIO]
) -> None:
    """Run a candidate of a ``meta`` U-Net once, recording every stage's inputs and outputs."""
    with torch.no_grad():
        assemble(unet, candidate, copy=False)(
            *unet_inputs(unet, latent_size, num_tokens, batch),
            added_cond_kwargs=example_conditioning(unet, batch, "meta"),
            record=record,
        )


@dataclass(frozen=True)
class _Call:
    """How a stage is called."""

    inputs: tuple[Tensor, ...]
    kwargs: dict[str, Any]


class _StageStandIn(nn.Module):
    """Takes a stage's place: gives its shapes, and notes how it was called and when."""

    def __init__(self, stage: nn.Module, recorder: Recorder, traces: LayerTraces) -> None:
        super().__init__()
        self._traces = traces
        self._held = (stage,)  # in a tuple, so that its parameters are not taken for the head's
        self.has_downsampler = getattr(stage, "downsampler", None) is not None
        self._recorder = recorder
        self.position = 0
        self.call = _Call((), {})
        self.results: tuple[Tensor, ...] = ()

    @property
    def downsampler(self) -> bool | None:
        """Whether there is one, asked by the U-Net as ``is None``."""
        return self.has_downsampler or None

    def forward(self, *inputs: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
        self.position = self._recorder.num_steps
        self.call = _Call(tuple(inputs), dict(kwargs))
        _, shapes = self._traces.cost_and_results(self._held[0], self.call.inputs, kwargs)
        self.results = tuple(blank(tensor) for tensor in shapes)
        numbers = dict.fromkeys(self._recorder.numbers(inputs))
        sizes = (*(0 for _ in numbers), *(tensor.numel() for tensor in self.results))
        local = {number: i for i, number in enumerate(numbers)}
        given = tuple(local[number] for number in self._recorder.numbers(inputs))
        made = tuple(range(len(numbers), len(sizes)))
        self._recorder.splice(Trace((), sizes, given, made, Counter()), inputs, self.results)
        return self.results


def _head(
    meta: UNet, size: tuple[int, int], num_tokens: int, batch: int, traces: LayerTraces
) -> tuple[dict[str, _Call], HeadCost]:
    """How the teacher calls its stages, and the cost of what is around them."""
    called_with = unet_inputs(meta, size, num_tokens, batch)
    added = example_conditioning(meta, batch, "meta")
    inputs = (*called_with, *(added or {}).values())
    recorder = Recorder(inputs)
    net = assemble(meta, teacher_candidate(meta), copy=False)
    stand_ins = {name: _StageStandIn(stage, recorder, traces) for name, stage in net.stages.items()}
    net.stages = nn.ModuleDict(stand_ins)
    with torch.no_grad(), recorder:
        result = net(*called_with, added_cond_kwargs=added, return_dict=False)
        first, *_, last = stand_ins.values()
        h, temb, _text = recorder.numbers(first.call.inputs)
        (h_last,) = recorder.numbers(last.results)
    whole = recorder.finish(result)
    before = replace(whole, steps=whole.steps[: first.position], outputs=(h, temb))
    after = replace(whole, steps=whole.steps[last.position :], inputs=(*whole.inputs, h_last))
    return {name: stand_in.call for name, stand_in in stand_ins.items()}, HeadCost(
        params=NumParams.of(net),
        trace=whole,
        peak=max(_head_peak(before, len(inputs)), _head_peak(after, len(inputs))),
        network_inputs=sum(math.prod(tensor.shape) for tensor in inputs),
    )


def _head_peak(part: Trace, num_network_inputs: int) -> int:
    liveness = Liveness.of(part)
    lives: list[Life] = [*liveness.inputs[num_network_inputs:], *(o._replace(last=AFTER) for o in liveness.outputs)]
    return liveness.peak(lives)
