"""Staged U-Nets as standard diffusers models, wherever their words allow it."""

from __future__ import annotations

from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from search_spaces.candidate import Candidate
from search_spaces.conditioning import head_modules
from search_spaces.errors import UserError
from search_spaces.options import DEEP, NONE, DeepWord, Word, default_skips
from search_spaces.surgery import num_levels, parse_option, stage_names
from search_spaces.unet import DeepStage, StagedUNet, UNet


class NotStandard(UserError):
    """A candidate that no configuration of ``UNet2DConditionModel`` expresses; the message says why."""


def standard_config(unet: UNet, candidate: Candidate) -> dict[str, Any]:
    """Configuration of the ``UNet2DConditionModel`` that equals the candidate.

    A diffusers U-Net has one more layer in a decoder block than in the encoder block of the same level,
    attention after every residual block of a block or after none, and each decoder layer reads the next
    skip; a candidate is standard when its words agree with that.

    Args:
        unet: the teacher's U-Net (``meta`` will do).

    Raises:
        NotStandard: with the stage and the reason.
    """
    levels = num_levels(unet)
    options = {stage: parse_option(unet, stage, candidate.options[stage]) for stage in stage_names(unet)}
    for stage, option in options.items():
        if not option.internals.is_teachers:
            raise NotStandard(f"{stage}: {option.text!r} has other layers inside than a diffusers block")
    deep = options[DEEP].word
    assert isinstance(deep, DeepWord)
    pairs: list[tuple[str, Word, str, Word]] = []
    for i in range(1, levels + 1):
        encoder, decoder = options[f"E{i}"].word, options[f"D{i}"].word
        assert isinstance(encoder, Word) and isinstance(decoder, Word)
        pairs.append((f"E{i}", encoder, f"D{i}", decoder))
    if deep.kept:
        assert deep.encoder is not None and deep.decoder is not None
        pairs.append((f"{DEEP} encoder", deep.encoder, f"{DEEP} decoder", deep.decoder))

    config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
    teacher_layers = len(unet.down_blocks[0].resnets)
    for e_name, encoder, d_name, decoder in pairs:
        for name, word in ((e_name, encoder), (d_name, decoder)):
            if len({layer.attention for layer in word.layers}) > 1:
                raise NotStandard(f"{name}: {word.text!r} mixes R with RA, but a diffusers block has one kind of layer")
        if len(decoder.layers) != len(encoder.layers) + 1:
            raise NotStandard(
                f"{d_name}: {decoder.text!r} has {len(decoder.layers)} R, but a diffusers decoder block has one more "
                f"than its encoder block, and {e_name} is {encoder.text!r}"
            )
        if tuple(layer.skip for layer in decoder.layers) != default_skips(len(decoder.layers), teacher_layers + 1):
            raise NotStandard(f"{d_name}: {decoder.text!r} reads other skips than a diffusers decoder block")
    num_blocks = len(pairs)
    config.update(
        block_out_channels=tuple(config["block_out_channels"][:num_blocks]),
        layers_per_block=tuple(len(encoder.layers) for _, encoder, _, _ in pairs),
        down_block_types=tuple("CrossAttnDownBlock2D" if e.has_attention else "DownBlock2D" for _, e, _, _ in pairs),
        up_block_types=tuple(
            "CrossAttnUpBlock2D" if d.has_attention else "UpBlock2D" for _, _, _, d in reversed(pairs)
        ),
        mid_block_type=unet.config.mid_block_type if deep.mid else None,
    )
    for key in ("attention_head_dim", "cross_attention_dim", "transformer_layers_per_block", "only_cross_attention"):
        if isinstance(config[key], (list, tuple)):
            config[key] = tuple(config[key][:num_blocks])
    return config


def why_not_standard(unet: UNet, candidate: Candidate) -> str | None:
    """The reason why a candidate is no standard ``UNet2DConditionModel``, or ``None`` when it is one."""
    try:
        standard_config(unet, candidate)
    except NotStandard as reason:
        return str(reason)
    return None


def _copy_block(target: Any, source: Any) -> None:
    for index, resnet in enumerate(target.resnets):
        resnet.load_state_dict(source.resnets[index].state_dict())
    for index, attention in enumerate(getattr(target, "attentions", None) or []):
        attention.load_state_dict(source.attentions[str(index)].state_dict())
    for mine, theirs in (("downsamplers", "downsampler"), ("upsamplers", "upsampler")):
        resamplers = getattr(target, mine, None)
        if resamplers is not None and getattr(source, theirs, None) is not None:
            resamplers[0].load_state_dict(getattr(source, theirs).state_dict())


def to_diffusers(staged: StagedUNet) -> UNet:
    """The same network as a standard ``UNet2DConditionModel``, weights copied.

    Raises:
        NotStandard: the words do not allow it; see :func:`standard_config`.
    """
    import torch

    with torch.device("meta"):
        config: Any = staged.config
        teacher = UNet2DConditionModel.from_config(config.teacher_config)
    candidate = staged.candidate
    parameter = next(staged.parameters())
    model: UNet = UNet2DConditionModel.from_config(standard_config(teacher, candidate))
    model = model.to(parameter.device, parameter.dtype)
    for name in head_modules(teacher):
        getattr(model, name).load_state_dict(getattr(staged, name).state_dict())
    levels = num_levels(teacher)
    offset = 0 if candidate.options[DEEP] == NONE else 1
    for i in range(1, levels + 1):
        _copy_block(model.down_blocks[i - 1], staged.stages[f"E{i}"])
        _copy_block(model.up_blocks[levels - i + offset], staged.stages[f"D{i}"])
    deep: nn.Module = staged.stages[DEEP]
    if isinstance(deep, DeepStage):
        model.down_blocks[levels - 1].downsamplers[0].load_state_dict(deep.downsampler.state_dict())
        _copy_block(model.down_blocks[levels], deep.encoder)
        _copy_block(model.up_blocks[0], deep.decoder)
        if deep.mid is not None:
            model.mid_block.load_state_dict(deep.mid.state_dict())
    return model.train(staged.training)
