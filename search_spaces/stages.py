"""What a teacher's U-Net offers: its stages, its own words, and the options that can be built from them.

Everything is read off the teacher's configuration and modules, on any device including ``meta``; nothing
is built here.
"""

from __future__ import annotations

from typing import Any

from search_spaces.candidate import Candidate
from search_spaces.conditioning import TEXT_TIME, text_width
from search_spaces.errors import UserError, shown
from search_spaces.options import (
    ABSENT,
    DEEP,
    MAX_LEVELS,
    NONE,
    DeepWord,
    Side,
    Word,
    decoder_word,
    deep_word,
    encoder_word,
    side_of,
)
from search_spaces.slimming import kept_parts
from search_spaces.stage_option import Attention, Internals, StageOption, option_text, split_option
from search_spaces.unet import UNet

_DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
_UP = ("UpBlock2D", "CrossAttnUpBlock2D")
_MID = ("UNetMidBlock2DCrossAttn",)


def check_supported(unet: UNet) -> None:
    """Raise unless the U-Net is one that can be cut into stages.

    Raises:
        UserError: fewer than two levels or too many, block types other than SD's, another number of layers per
            block on the way up than one more than on the way down, extra conditioning, or text
            of different widths by level.
    """
    config = unet.config
    for key, legal in (("down_block_types", _DOWN), ("up_block_types", _UP)):
        for block in config[key]:
            if block not in legal:
                raise UserError(f"unsupported teacher: {key} has {block!r}; legal are {', '.join(legal)}")
    if len(config.down_block_types) < 2:
        raise UserError("unsupported teacher: a U-Net with one level has no stages to search; it needs two or more")
    if len(config.down_block_types) > MAX_LEVELS + 1:
        raise UserError(
            f"unsupported teacher: its U-Net has {len(config.down_block_types)} levels; legal are 2 to "
            f"{MAX_LEVELS + 1}, stages E1 to E{MAX_LEVELS} and {DEEP}"
        )
    text_width(config)
    if config.mid_block_type not in (*_MID, None):
        raise UserError(
            f"unsupported teacher: mid_block_type {config.mid_block_type!r}; legal are {_MID[0]!r} and null"
        )
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_embedding_act_fn"):
        if config.get(key) is not None:
            raise UserError(f"unsupported teacher: {key} is {config[key]!r}; only U-Nets without it can be cut")
    choices: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("addition_embed_type", (None, TEXT_TIME)),
        ("attention_type", ("default",)),
        ("dual_cross_attention", (False,)),
    )
    for key, values in choices:
        if config.get(key, values[0]) not in values:
            raise UserError(
                f"unsupported teacher: {key} is {config[key]!r}; legal are {', '.join(repr(v) for v in values)}"
            )
    if config.center_input_sample or config.norm_num_groups is None:
        raise UserError("unsupported teacher: centred input or missing output norm; only plain SD U-Nets can be cut")


def num_levels(unet: UNet) -> int:
    """Kept encoder stages: all levels but the deepest, which belongs to ``deep``."""
    return len(unet.down_blocks) - 1


def stage_names(unet: UNet) -> tuple[str, ...]:
    """Stages in the order of the data: ``E1 E2 E3 deep D3 D2 D1`` for SD 1.5."""
    levels = range(1, num_levels(unet) + 1)
    return (*(f"E{i}" for i in levels), DEEP, *(f"D{i}" for i in reversed(levels)))


def _block_word(block: Any) -> str:
    return ("RA" if getattr(block, "has_cross_attention", False) else "R") * len(block.resnets)


def teacher_word(unet: UNet, stage: str) -> str:
    """The teacher's own option of a stage, such as ``RARA`` or, for ``deep``, ``RR.RAR.RRR``."""
    side, level = side_of(stage), num_levels(unet)
    if stage not in stage_names(unet):
        raise UserError(
            f"stage {shown(stage)} does not exist in this teacher; legal are {', '.join(stage_names(unet))}"
        )
    if side is Side.ENCODER:
        return _block_word(unet.down_blocks[int(stage[1:]) - 1])
    if side is Side.DECODER:
        return _block_word(unet.up_blocks[level + 1 - int(stage[1:])])
    mid = ABSENT if unet.mid_block is None else "R" + "AR" * len(unet.mid_block.attentions)
    return f"{_block_word(unet.down_blocks[level])}.{mid}.{_block_word(unet.up_blocks[0])}"


def teacher_candidate(unet: UNet) -> Candidate:
    """The candidate that is the teacher itself, ``deep`` kept."""
    return Candidate(options={stage: teacher_word(unet, stage) for stage in stage_names(unet)})


def parse_option(unet: UNet, stage: str, name: str) -> StageOption:
    """Parse an option name of a stage against this teacher; what parses can be built.

    Raises:
        UserError: an option that the teacher's stage cannot give, or one that would change its interface.
    """
    own = teacher_word(unet, stage)
    side = side_of(stage)
    text, internals = split_option(stage, name)
    word: Word | DeepWord
    if side is Side.DEEP:
        word = deep_word(text, own)
        if word.decoder is not None:
            inherited_layers(unet, 0, word.decoder, stage)
        else:
            _check_droppable(unet)
    elif side is Side.ENCODER:
        word = encoder_word(stage, text, own)
    else:
        word = decoder_word(stage, text, own)
        inherited_layers(unet, num_levels(unet) + 1 - int(stage[1:]), word, stage)
    if not internals.is_teachers:
        _check_internals(unet, stage, internals)
    return StageOption(option_text(word.text, internals), word, internals)


def stage_blocks(unet: UNet, stage: str) -> list[Any]:
    """The teacher's blocks, each with resnets and perhaps attentions, that a stage is made of."""
    level = num_levels(unet)
    if side_of(stage) is Side.ENCODER:
        return [unet.down_blocks[int(stage[1:]) - 1]]
    if side_of(stage) is Side.DECODER:
        return [unet.up_blocks[level + 1 - int(stage[1:])]]
    mid = [] if unet.mid_block is None else [unet.mid_block]
    return [unet.down_blocks[level], *mid, unet.up_blocks[0]]


def _check_internals(unet: UNet, stage: str, internals: Internals) -> None:
    blocks = stage_blocks(unet, stage)
    layers = [t for b in blocks for a in getattr(b, "attentions", ()) for t in a.transformer_blocks]
    scaled = unet.config.resnet_time_scale_shift
    if internals.resnet_width != 1 and scaled != "default":
        raise UserError(
            f"{stage}: resnet_width {internals.resnet_width:g} needs a teacher whose resnet_time_scale_shift is "
            f"'default', and this one's is {scaled!r}; legal is 1"
        )
    if internals.attention is not Attention.BOTH and any(layer.only_cross_attention for layer in layers):
        raise UserError(
            f"{stage}: attention {internals.attention.value!r} needs layers with self- and cross-attention, and this "
            f"teacher's have only_cross_attention; legal is {Attention.BOTH.value!r}"
        )
    try:
        for width, groups in {(r.conv1.out_channels, r.norm2.num_groups) for b in blocks for r in b.resnets}:
            kept_parts("resnet_width", internals.resnet_width, width, groups)
        for heads, units in {(layer.attn1.heads, layer.ff.net[-1].in_features) for layer in layers}:
            kept_parts("heads", internals.heads, heads, 1)
            kept_parts("ff_width", internals.ff_width, units, 1)
    except UserError as error:
        raise UserError(f"{stage}: {error}") from None


def _skip_channels(unet: UNet, up_index: int) -> list[int]:
    """Channels of the skips entering an up block, in the order in which its layers read them."""
    channels = list(unet.config.block_out_channels)
    level = len(channels) - 1 - up_index
    num_own = len(unet.up_blocks[up_index].resnets) - 1
    return [channels[level]] * num_own + [channels[max(level - 1, 0)]]


def inherited_layers(unet: UNet, up_index: int, word: Word, where: str) -> list[int]:
    """Which of the teacher's layers each layer of a decoder word inherits.

    Raises:
        UserError: a layer reads a skip with which its input fits none of the teacher's layers.
    """
    block = unet.up_blocks[up_index]
    skip_channels = _skip_channels(unet, up_index)
    h_channels = block.resnets[0].in_channels - skip_channels[0]
    inherited: list[int] = []
    for layer in word.layers:
        assert layer.skip is not None
        wanted = h_channels + skip_channels[layer.skip]
        # The layer that reads this skip in the teacher comes first; where its input does not fit (a
        # single layer must take the wide input of the first), the earliest fitting layer is inherited.
        order = [layer.skip, *range(len(block.resnets))]
        index = next((i for i in order if block.resnets[i].in_channels == wanted), None)
        if index is None:
            raise UserError(
                f"{where}: {word.text!r} has no teacher layer with {wanted} input channels "
                f"(legal: {', '.join(str(r.in_channels) for r in block.resnets)}); let it read other skips"
            )
        inherited.append(index)
        h_channels = block.resnets[0].out_channels
    return inherited


def _check_droppable(unet: UNet) -> None:
    level = num_levels(unet)
    last, first = unet.config.block_out_channels[level - 1], unet.config.block_out_channels[level]
    if last != first:
        raise UserError(
            f"{DEEP}: {NONE!r} changes the interface of this teacher, whose decoder expects {first} channels "
            f"where the encoder gives {last}; keep {teacher_word(unet, DEEP)!r}"
        )


def check_candidate(unet: UNet, candidate: Candidate) -> None:
    """Raise unless the candidate has exactly this teacher's stages, each with a canonical option.

    Raises:
        UserError: missing, extra or misordered stages; an unknown option; a name that is not canonical.
    """
    if tuple(candidate.options) != stage_names(unet):
        raise UserError(
            f"candidate has stages {' '.join(candidate.options)}; this teacher's are {' '.join(stage_names(unet))}"
        )
    for stage, name in candidate.options.items():
        canonical = parse_option(unet, stage, name).text
        if canonical != name:
            raise UserError(f"{stage}: option {name!r} is written {canonical!r}; use that name")
