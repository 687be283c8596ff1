"""One option of a U-Net stage as text: a word, and the internals of its layers.

``RARA_w0.5_f0.25_h0.5_cross_sep`` is the word ``RARA`` with half of the ResNet blocks' hidden channels, a
quarter of the feed-forward's hidden units, half of the attention heads, cross-attention only and
depthwise-separable convolutions. What equals the teacher's is left out, and so is what a word without
attention does not have: every network has one text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from search_spaces.errors import UserError, shown
from search_spaces.options import NONE, DeepWord, Word

SEPARATOR = "_"
MIN_RATIO = 0.0001  # as text, smaller ones have an exponent, whose '-' would break the ids of candidates


class Attention(StrEnum):
    """What the transformer blocks of a stage attend to."""

    BOTH = "both"
    CROSS = "cross"
    SELF = "self"
    NONE = "none"


class Conv(StrEnum):
    """How the 3x3 convolutions of a stage's ResNet blocks are built."""

    FULL = "full"
    SEPARABLE = "separable"


@dataclass(frozen=True)
class Internals:
    """What is inside the layers of a stage; nothing of it changes the stage's interface.

    Attributes:
        resnet_width: hidden channels of each ResNet block, as a share of the teacher's.
        ff_width: hidden units of each feed-forward, as a share of the teacher's (four times the channels).
        heads: attention heads kept, as a share of the teacher's.
        attention: which attentions the transformer blocks keep; ``NONE`` is written as a word without A.
        conv: full 3x3 convolutions, or depthwise 3x3 followed by pointwise.
    """

    resnet_width: float = 1.0
    ff_width: float = 1.0
    heads: float = 1.0
    attention: Attention = Attention.BOTH
    conv: Conv = Conv.FULL

    @property
    def is_teachers(self) -> bool:
        """Whether nothing differs from the teacher's layers."""
        return self == Internals()


@dataclass(frozen=True)
class StageOption:
    """A parsed option of a U-Net stage: its canonical text, its word and its internals."""

    text: str
    word: Word | DeepWord
    internals: Internals


_RATIOS = {"w": "resnet_width", "f": "ff_width", "h": "heads"}
_PART = re.compile(r"([wfh])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)")


def split_option(where: str, text: str) -> tuple[str, Internals]:
    """Word and internals of an option's text.

    Raises:
        UserError: an unknown, repeated or illegal part after the word.
    """
    word, *parts = text.split(SEPARATOR)
    found: dict[str, float | Attention | Conv] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if match:
            key: str = _RATIOS[match[1]]
            value: float | Attention | Conv = check_ratio(f"{where}: {shown(text)}: {key}", float(match[2]))
        elif part in (Attention.CROSS, Attention.SELF):
            key, value = "attention", Attention(part)
        elif part == "sep":
            key, value = "conv", Conv.SEPARABLE
        else:
            raise UserError(
                f"{where}: {shown(part)} in {shown(text)} is unknown; after the word may follow _w0.5 (ResNet width), "
                "_f0.5 (feed-forward width), _h0.5 (heads), _cross or _self (attention) and _sep (separable)"
            )
        if key in found:
            raise UserError(f"{where}: {shown(text)} gives {key} twice; give it once")
        found[key] = value
    return word, replace(Internals(), **found)  # type: ignore[arg-type]


def check_ratio(where: str, value: float) -> float:
    """The ratio itself.

    Raises:
        UserError: not from ``MIN_RATIO`` to 1, or not what its text of six digits says, which two ratios would share.
    """
    if not MIN_RATIO <= value <= 1:
        raise UserError(f"{where} {value:g} is not a share of the teacher's; legal are ratios from {MIN_RATIO:g} to 1")
    if float(f"{value:g}") != value:
        raise UserError(f"{where} {value!r} has too many digits; write {value:g}, legal are at most six")
    return value


def option_text(word: str, internals: Internals) -> str:
    """Canonical text of a word with internals: equal networks have equal texts."""
    if word == NONE:
        return NONE
    if internals.attention is Attention.NONE:
        word = word.replace("A", "")
    parts = [word]
    if internals.resnet_width != 1:
        parts.append(f"w{internals.resnet_width:g}")
    if "A" in word:
        if internals.ff_width != 1:
            parts.append(f"f{internals.ff_width:g}")
        if internals.heads != 1:
            parts.append(f"h{internals.heads:g}")
        if internals.attention is not Attention.BOTH:
            parts.append(internals.attention.value)
    if internals.conv is Conv.SEPARABLE:
        parts.append("sep")
    return SEPARATOR.join(parts)
