"""One option of the VAE's encoder (stage ``VE``) or decoder (``VD``) as text.

``teacher`` is the teacher's own; ``64x1.64x3.64x3.64x3`` is a tiny ResNet with one entry a level,
``width x depth``: channels of the level and its number of tiny ResNet blocks. Level 1 is the full
resolution, each following level half of it; the last is the latents' resolution.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.errors import UserError, shown
from search_spaces.options import MAX_LEVELS

VAE_ENCODER = "VE"
VAE_DECODER = "VD"
VAE_STAGES = (VAE_ENCODER, VAE_DECODER)
STEPS = "steps"
TEACHER = "teacher"

_LEVEL = re.compile(r"([1-9][0-9]{0,3})x([1-9][0-9]?)")


@dataclass(frozen=True)
class TinyLevel:
    """One level of a tiny ResNet: channels, and tiny ResNet blocks."""

    width: int
    depth: int


@dataclass(frozen=True)
class VaeOption:
    """A parsed option: ``levels`` from full resolution to latents, or ``None`` for the teacher's own."""

    text: str
    levels: tuple[TinyLevel, ...] | None


def vae_text(levels: Sequence[TinyLevel]) -> str:
    """Text of a tiny ResNet's levels."""
    return ".".join(f"{level.width}x{level.depth}" for level in levels)


def parse_vae_option(where: str, text: str, num_levels: int | None = None) -> VaeOption:
    """Parse an option such as ``teacher`` or ``64x1.64x3.64x3.64x3``.

    Args:
        where: stage name for messages.
        text: the option.
        num_levels: levels of the teacher's VAE, when known.

    Raises:
        UserError: neither ``teacher`` nor levels of width and depth, or another number of levels than the teacher's.
    """
    if text == TEACHER:
        return VaeOption(TEACHER, None)
    levels = []
    for part in text.split("."):
        match = _LEVEL.fullmatch(part)
        if match is None:
            raise UserError(
                f"{where}: {shown(text)} is no option; legal are {TEACHER!r} and one 'width x depth' a level, full "
                "resolution first, such as 64x1.64x3.64x3.64x3 (width 1 to 9999, depth 1 to 99)"
            )
        levels.append(TinyLevel(int(match[1]), int(match[2])))
    check_levels(where, len(levels))
    if num_levels is not None and len(levels) != num_levels:
        raise UserError(
            f"{where}: {shown(text)} has {len(levels)} levels, but the teacher's VAE has {num_levels}; "
            f"give {num_levels}"
        )
    return VaeOption(text, tuple(levels))


def check_levels(where: str, num_levels: int) -> None:
    """Raise unless some VAE could have so many levels.

    Raises:
        UserError: more levels than ``MAX_LEVELS``.
    """
    if num_levels > MAX_LEVELS:
        raise UserError(f"{where}: {num_levels:,} levels are too many; legal are at most {MAX_LEVELS}")


def parse_steps(text: str) -> int:
    """Number of denoising steps of the pipeline.

    Raises:
        UserError: not a whole number from 1 to 1000.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text) or int(text) > 1000:
        raise UserError(f"{STEPS}: {shown(text)} is no step count; legal are whole numbers from 1 to 1000")
    return int(text)
