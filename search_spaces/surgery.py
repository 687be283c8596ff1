"""Network surgery: from a teacher's U-Net and a candidate's words to modules with inherited weights.

Everything is read off the teacher itself (its blocks and channel counts), on any device including
``meta``, so the same code serves SD 1.x, SD 2.x, their compressed relatives and the toy teacher.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.candidate import Candidate
from search_spaces.layers import shallow
from search_spaces.options import DEEP, DeepWord, Side, Word, side_of
from search_spaces.slimming import Selection, slim_layers
from search_spaces.stages import (
    check_candidate,
    check_supported,
    inherited_layers,
    num_levels,
    parse_option,
    stage_names,
    teacher_candidate,
    teacher_word,
)
from search_spaces.unet import DecoderStage, DeepStage, DroppedStage, EncoderStage, StagedUNet, UNet

__all__ = [
    "Selection",
    "assemble",
    "build_stage",
    "check_candidate",
    "check_supported",
    "num_levels",
    "parse_option",
    "stage_names",
    "teacher_candidate",
    "teacher_word",
]

_NUM_TIMESTEPS = 17  # the time embedding is smooth in time


def build_stage(
    unet: UNet,
    stage: str,
    name: str,
    copy: bool = True,
    selection: Selection = Selection.IMPORTANCE,
    seed: int = 0,
) -> nn.Module:
    """One stage of the staged U-Net in the given option, with the teacher's weights where layers remain.

    Args:
        unet: the teacher's U-Net, on any device including ``meta``.
        stage: ``E1`` ... ``D1`` or ``deep``.
        name: option name.
        copy: deep copies of the teacher's modules; ``False`` shares them (for inference only).
        selection: which weights slimmer layers inherit.
        seed: of ``Selection.RANDOM``.

    Raises:
        UserError: unknown stage or option, or an option whose channels do not fit together.
    """
    option = parse_option(unet, stage, name)
    word = option.word
    level = num_levels(unet)
    if isinstance(word, DeepWord):
        module: nn.Module = _deep(unet, word)
    elif side_of(stage) is Side.ENCODER:
        number = int(stage[1:])
        module = _encoder(unet.down_blocks[number - 1], word, with_downsampler=number < level)
    else:
        number = int(stage[1:])
        module = _decoder(unet, level + 1 - number, word, stage)
    if not option.internals.is_teachers:
        parts = [module.encoder, module.mid, module.decoder] if isinstance(module, DeepStage) else [module]
        temb = None if option.internals.resnet_width == 1 else _time_embeddings(unet)
        generator = torch.Generator().manual_seed(seed)
        for part in parts:
            if part is not None:
                slim_layers(part, option.internals, selection, temb, generator)
    # Shared modules keep the teacher's mode: eval() here would reach into a teacher that is training.
    return copying.deepcopy(module) if copy else module


def _time_embeddings(unet: UNet) -> Tensor:
    """Time embeddings (T, D) of timesteps spread over SD's schedule of 1000; conditioning beside time is left out."""
    weight = next(unet.time_embedding.parameters())
    timesteps = torch.linspace(0, 999, _NUM_TIMESTEPS, device=weight.device)
    with torch.no_grad():
        embedded: Tensor = unet.time_embedding(unet.time_proj(timesteps).to(weight.dtype))
    return embedded


def _encoder(block: Any, word: Word, with_downsampler: bool) -> EncoderStage:
    resnets = list(block.resnets[: len(word.layers)])
    attentions = [block.attentions[i] if layer.attention else None for i, layer in enumerate(word.layers)]
    downsampler = block.downsamplers[0] if with_downsampler else None
    return EncoderStage(resnets, attentions, downsampler, num_skips=len(block.resnets))


def _decoder(unet: UNet, up_index: int, word: Word, where: str) -> DecoderStage:
    block = unet.up_blocks[up_index]
    inherited = inherited_layers(unet, up_index, word, where)
    resnets = [block.resnets[index] for index in inherited]
    attentions = [
        block.attentions[index] if layer.attention else None
        for index, layer in zip(inherited, word.layers, strict=True)
    ]
    skips = tuple(layer.skip for layer in word.layers if layer.skip is not None)
    upsampler = block.upsamplers[0] if block.upsamplers is not None else None
    return DecoderStage(resnets, attentions, upsampler, skips)


def _deep(unet: UNet, word: DeepWord) -> nn.Module:
    level = num_levels(unet)
    if not word.kept:
        return DroppedStage()
    assert word.encoder is not None and word.decoder is not None
    return DeepStage(
        unet.down_blocks[level - 1].downsamplers[0],
        _encoder(unet.down_blocks[level], word.encoder, with_downsampler=False),
        _own_lists(unet.mid_block) if word.mid else None,
        _decoder(unet, 0, word.decoder, DEEP),
    )


def _own_lists(mid: nn.Module) -> nn.Module:
    """The middle block with lists of its own, so that its layers can be replaced without changing the teacher's."""
    block: Any = mid
    return shallow(mid, resnets=nn.ModuleList(block.resnets), attentions=nn.ModuleList(block.attentions))


def assemble(
    unet: UNet,
    candidate: Candidate,
    stages: Mapping[tuple[str, str], nn.Module] | None = None,
    copy: bool = True,
) -> StagedUNet:
    """A candidate's U-Net.

    Args:
        unet: the teacher's U-Net; its head (input, time embedding, output) is shared, not copied.
        candidate: one option per stage.
        stages: trained modules by (stage, option name); used as they are. Others are inherited.
        copy: whether inherited stages are deep copies of the teacher's; ``False`` for inference only.

    Raises:
        UserError: a teacher that cannot be cut, or options that it does not have.
    """
    check_supported(unet)
    check_candidate(unet, candidate)
    given = stages or {}
    modules = {
        stage: given[stage, name] if (stage, name) in given else build_stage(unet, stage, name, copy)
        for stage, name in candidate.options.items()
    }
    return StagedUNet.from_parts(unet, candidate, modules).train(unet.training)
