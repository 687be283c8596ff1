"""A first search-space file for any teacher: its own words, the smaller ones it allows, and what else may be chosen."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.options import ABSENT, DEEP, NONE, Side, side_of
from search_spaces.space import MAX_NAME
from search_spaces.stage_option import Attention, Conv, Internals, option_text
from search_spaces.surgery import check_supported, parse_option, stage_names, teacher_word
from search_spaces.unet import UNet
from search_spaces.vae import VAE
from search_spaces.vae_option import TEACHER, TinyLevel, vae_text

_RATIOS = (1.0, 0.75, 0.5, 0.25)
_WIDEST = 64  # channels of the paper's tiny VAE and of TAESD


def starting_space(unet: UNet, vae: VAE | None, name: str) -> str:
    """Text of a YAML file that searches the words of a teacher's U-Net, with everything else to be uncommented.

    Every option in it, uncommented ones too, can be built from this teacher.

    Args:
        unet: the teacher's U-Net, on any device.
        vae: the teacher's VAE, on any device, for the decisions on it; ``None``: left out.
        name: name of the search space; what names may not have in them becomes a dash.

    Raises:
        UserError: a U-Net that cannot be cut into stages.
    """
    check_supported(unet)
    stages = stage_names(unet)
    words = {stage: _words(unet, stage) for stage in stages}
    size = math.prod(len(choices) for choices in words.values())
    channels = ", ".join(map(str, unet.config.block_out_channels))
    lines = [
        "# yaml-language-server: $schema=space.schema.json",
        "# (write that file with: nanosd space schema > space.schema.json)",
        f"# {size:,} candidates as it stands. Take a # away to search a decision too; the teacher's own comes first.",
        *yaml.safe_dump(
            {"name": _name(name), "description": f"Words of a U-Net with {channels} channels"},
            sort_keys=False,
            allow_unicode=True,
            width=10_000,
        ).splitlines(),
        "options:",
    ]
    for stage in stages:
        lines += [f"  {stage}:{_comment(unet, stage)}", f"    word: [{', '.join(words[stage])}]"]
        lines += [f"    # {key}: [{', '.join(values)}]" for key, values in _internals(unet, stage, words[stage])]
    levels = [] if vae is None else _tiny_levels(vae)
    if levels:
        lines += _vae(levels)
    named = {
        key: Candidate(options={stage: words[stage][at] for stage in stages}).id
        for key, at in (("teacher", 0), ("smallest", -1))
    }
    lines += ["candidates:", *(f"  {key}: {text}" for key, text in named.items())]
    if levels:
        lines += _pipelines(named, levels)
    return "\n".join(lines) + "\n"


def _name(text: str) -> str:
    """The text as a legal name of a search space."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).lstrip("_.-")[:MAX_NAME] or "space"


def _comment(unet: UNet, stage: str) -> str:
    if stage == DEEP:
        return f"  # the deepest encoder stage, middle block and decoder stage; {ABSENT}: no middle block"
    level = int(stage[1:]) - 1
    return f"  # {unet.config.block_out_channels[level]} channels, at 1/{2**level} of the latents' resolution"


def _words(unet: UNet, stage: str) -> list[str]:
    """Words that this teacher's stage can be given, its own first, the shortest last."""
    own = teacher_word(unet, stage)
    if side_of(stage) is Side.DEEP:
        encoder, mid, decoder = own.split(".")
        # Half of the layers as in BK-SDM: the encoder's first, the decoder's first and last.
        layer = "RA" if "A" in encoder else "R"
        short = (layer * max(1, encoder.count("R") // 2), layer * max(1, decoder.count("R") - 1))
        tried = [own, f"{short[0]}.{mid}.{short[1]}", f"{short[0]}.{ABSENT}.{short[1]}", NONE]
        return _legal(unet, stage, tried)
    layers = own.count("R")
    shorter = ["RA" * number for number in range(layers, 0, -1)] if "A" in own else []
    plain = ["R" * number for number in range(layers, 0, -1)]
    if side_of(stage) is Side.ENCODER:
        return _legal(unet, stage, [*shorter, *plain])
    found = _legal(unet, stage, [*shorter[:-1], *plain[:-1]])
    # One layer reads one skip: the first that fits, or in D1 the last, which is conv_in's and keeps most.
    skips = [f"@{number}" for number in range(1, layers + 1)]
    for word in ("RA", "R") if "A" in own else ("R",):
        found += _legal(unet, stage, [word + skip for skip in (reversed(skips) if stage == "D1" else skips)])[:1]
    return found


def _legal(unet: UNet, stage: str, texts: Iterable[str]) -> list[str]:
    """Those texts that the teacher can be given, in canonical form, once each."""
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[parse_option(unet, stage, text).text] = None
        except UserError:
            continue
    return list(found)


def _internals(unet: UNet, stage: str, words: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """Decisions on what is inside the layers, with the values that every one of the words can take."""
    kept = [word for word in words if word != NONE]

    def legal(values: Iterable[Any], internals: Callable[[Any], Internals]) -> list[str]:
        fit = [v for v in values if all(_legal(unet, stage, [option_text(word, internals(v))]) for word in kept)]
        return [f"{value:g}" if isinstance(value, float) else str(value) for value in fit]

    decisions = [("resnet_width", legal(_RATIOS, lambda v: Internals(resnet_width=v)))]
    if any("A" in word for word in kept):
        attentions = [Attention.BOTH, Attention.CROSS, Attention.SELF]
        decisions += [
            ("ff_width", legal(_RATIOS, lambda v: Internals(ff_width=v))),
            ("heads", legal(_RATIOS, lambda v: Internals(heads=v))),
            ("attention", legal(attentions, lambda v: Internals(attention=v))),
        ]
    decisions.append(("conv", legal([Conv.FULL, Conv.SEPARABLE], lambda v: Internals(conv=v))))
    return [(key, values) for key, values in decisions if len(values) > 1]


def _tiny_levels(vae: VAE) -> list[tuple[list[int], list[int]]]:
    """Widths and depths of a tiny ResNet for each level of the VAE, largest first; all are less work than the teacher.

    A block of half the channels has 27 / 72 of the MACs of a residual block, and each half of the teacher has at least
    as many of those at a level as its ``layers_per_block``.
    """
    levels = []
    for number, channels in enumerate(vae.config.block_out_channels):
        width = max(1, min(_WIDEST, channels // 2))
        deepest = 1 if number == 0 else vae.config.layers_per_block + 1
        levels.append(([*dict.fromkeys((width, max(1, width // 2)))], [*dict.fromkeys((deepest, 1))]))
    return levels


_VAE = """\
  # VAE encoder (VE) and decoder (VD): the teacher's own, or a tiny ResNet with a width and a depth a level, from full
  # resolution to the latents'; and denoising steps. With any of these, named candidates have three options more: see
  # the end of this file.
  # VE:
  #   kind: [teacher, tiny]
  #   width: {widths}
  #   depth: {depths}
  # VD:
  #   kind: [teacher, tiny]
  #   width: {widths}
  #   depth: {depths}
  # steps: [1, 2, 4]"""


def _vae(levels: Sequence[tuple[list[int], list[int]]]) -> list[str]:
    widths, depths = ([level[part] for level in levels] for part in (0, 1))
    return _VAE.format(widths=widths, depths=depths).splitlines()


def _pipelines(named: Mapping[str, str], levels: Sequence[tuple[list[int], list[int]]]) -> list[str]:
    """The named candidates as those of a space with decisions on VAE and steps, commented."""
    tiny = vae_text([TinyLevel(widths[-1], depths[-1]) for widths, depths in levels])
    return [
        "  # With VE, VD or steps: these in place of those above. Their last three options are of VE, VD and steps;",
        f"  # where VE or VD stays a comment, its option is {TEACHER}.",
        f"  # teacher: {named['teacher']}-{TEACHER}-{TEACHER}-1",
        f"  # smallest: {named['smallest']}-{tiny}-{tiny}-1",
    ]
