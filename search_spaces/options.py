"""Options: the words over R and A that a stage can be built from.

A word lists residual blocks (R) and transformer blocks (A) in order; an A always follows the R whose
output it refines, so a word is a sequence of layers, each ``R`` or ``RA``. A decoder layer also reads
one of the skips that enter its stage. By default a word with all layers reads all skips, a word with
two layers reads the first and the last, and a word with one layer reads the first; ``R@3`` says
otherwise (one layer, reading the third skip).

Source: the stage words of NanoSD (arXiv 2601.09823); the reading of skips follows BK-SDM, which keeps
the first and the last pair of a decoder stage.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from search_spaces.errors import UserError, shown

NONE = "none"
ABSENT = "x"
DEEP = "deep"
MAX_LAYERS = 32
MAX_LEVELS = 9

_WORD = re.compile(r"(?:RA?)+")


class Side(Enum):
    """Where in the U-Net a stage sits."""

    ENCODER = "encoder"
    DEEP = "deep"
    DECODER = "decoder"


def side_of(stage: str) -> Side:
    """Side of a stage by its name: ``E1`` encoder, ``D1`` decoder, ``deep`` the path between."""
    if stage == DEEP:
        return Side.DEEP
    if re.fullmatch(r"[ED][1-9]", stage):
        return Side.ENCODER if stage[0] == "E" else Side.DECODER
    raise UserError(f"unknown stage {shown(stage)}; stages are E1, E2, ..., {DEEP}, ..., D2, D1, up to E{MAX_LEVELS}")


@dataclass(frozen=True)
class Layer:
    """One layer of a word: a residual block, perhaps followed by a transformer block."""

    attention: bool
    skip: int | None = None
    """Which of the skips entering a decoder stage is read, counted from 0; ``None`` in an encoder."""


@dataclass(frozen=True)
class Word:
    """A parsed word: its layers in order, and its canonical text."""

    text: str
    layers: tuple[Layer, ...]

    @property
    def has_attention(self) -> bool:
        return any(layer.attention for layer in self.layers)


def default_skips(num_layers: int, num_skips: int) -> tuple[int, ...]:
    """Skips read by a word that names none: all, or the first ones and the last, or only the first."""
    if num_layers == 1:
        return (0,)
    return (*range(num_layers - 1), num_skips - 1)


def _split(where: str, text: str) -> list[bool]:
    if not _WORD.fullmatch(text):
        raise UserError(
            f"{where}: {shown(text)} is not a word over R and A; a word is a sequence of R and RA, such as R, RA, RR, "
            "RARA"
        )
    attention = [part == "RA" for part in re.findall(r"RA?", text)]
    if len(attention) > MAX_LAYERS:
        raise UserError(f"{where}: {shown(text)} has {len(attention):,} R; legal are words of at most {MAX_LAYERS}")
    return attention


def encoder_word(where: str, text: str, teacher: str) -> Word:
    """Parse an encoder word such as ``RA``.

    Args:
        where: stage name for messages.
        text: the word.
        teacher: the teacher's own word of that stage, which bounds layers and attention.

    Raises:
        UserError: not a word, more layers than the teacher has, or attention the teacher lacks.
    """
    attention = _split(where, text)
    _check_against_teacher(where, text, attention, teacher)
    return Word(text, tuple(Layer(a) for a in attention))


def decoder_word(where: str, text: str, teacher: str) -> Word:
    """Parse a decoder word such as ``RARA`` or ``R@3`` (the skips read, counted from 1, ``+`` between).

    Raises:
        UserError: as :func:`encoder_word`, or skips that do not exist, repeat or are too few or many.
    """
    word, at, chosen = text.partition("@")
    attention = _split(where, word)
    _check_against_teacher(where, text, attention, teacher)
    num_skips = len(_split(where, teacher))
    skips = default = default_skips(len(attention), num_skips)
    if at:
        skips = _skips(where, text, chosen, len(attention), num_skips)
    canonical = word if skips == default else word + "@" + "+".join(str(skip + 1) for skip in skips)
    return Word(canonical, tuple(Layer(a, skip) for a, skip in zip(attention, skips, strict=True)))


def _skips(where: str, text: str, chosen: str, num_layers: int, num_skips: int) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9](\+[0-9])*", chosen):
        raise UserError(f"{where}: {shown(text)} names no skips after '@'; write them as in R@3 or RR@1+3")
    skips = tuple(int(part) - 1 for part in chosen.split("+"))
    if list(skips) != sorted(set(skips)) or skips[0] < 0 or skips[-1] >= num_skips or len(skips) != num_layers:
        raise UserError(
            f"{where}: {shown(text)} must name {num_layers} of the skips 1 to {num_skips}, in rising order, one "
            "for each R"
        )
    return skips


def check_word(stage: str, text: str) -> None:
    """Raise unless some teacher could have this word in this stage; :func:`encoder_word` and so on ask a given one.

    Raises:
        UserError: not a word over R and A, skips named in an encoder or not in rising order, or not the
            form of a ``deep`` option.
    """
    side = side_of(stage)
    if side is Side.DEEP:
        if text == NONE:
            return
        encoder, mid, decoder = _deep_parts(text)
        _split(stage, encoder)
        if mid != ABSENT:
            _split(stage, mid)
        _check_decoder_word(stage, decoder)
    elif side is Side.DECODER:
        _check_decoder_word(stage, text)
    else:
        _split(stage, text)


def _check_decoder_word(where: str, text: str) -> None:
    word, at, chosen = text.partition("@")
    num_layers = len(_split(where, word))
    if at:
        _skips(where, text, chosen, num_layers, num_skips=9)


def _deep_parts(text: str, example: str = "RR.RAR.RRR") -> list[str]:
    parts = text.split(".")
    if len(parts) != 3:
        raise UserError(
            f"{DEEP}: {shown(text)} is no option; write {NONE!r} or three words 'encoder.mid.decoder' such as "
            f"{example!r}, with {ABSENT!r} for no middle block"
        )
    return parts


def _check_against_teacher(where: str, text: str, attention: list[bool], teacher: str) -> None:
    own = _split(where, teacher)
    if len(attention) > len(own):
        raise UserError(
            f"{where}: {shown(text)} has {len(attention)} R but the teacher's {teacher} has {len(own)}; "
            f"use at most {len(own)}"
        )
    if any(attention) and not all(own):
        raise UserError(f"{where}: {shown(text)} has attention but the teacher's {teacher} has none; leave the A out")


@dataclass(frozen=True)
class DeepWord:
    """The path between the last kept encoder stage and the first kept decoder stage.

    ``encoder.mid.decoder`` such as ``RR.RAR.RRR`` (E4, Mid, D4 of SD 1.5), ``R.x.RR`` without the
    middle block, or ``none``: the path is dropped and the decoder reads the encoder's output.
    """

    text: str
    encoder: Word | None
    mid: bool
    decoder: Word | None

    @property
    def kept(self) -> bool:
        return self.encoder is not None


def deep_word(text: str, teacher: str) -> DeepWord:
    """Parse an option of the ``deep`` decision against the teacher's own, such as ``RR.RAR.RRR``.

    Raises:
        UserError: not of the form ``none`` or ``encoder.mid.decoder``, or not within the teacher's.
    """
    if text == NONE:
        return DeepWord(NONE, None, False, None)
    parts, own = _deep_parts(text, teacher), teacher.split(".")
    if parts[1] not in (own[1], ABSENT):
        raise UserError(f"{DEEP}: middle block {shown(parts[1])} in {shown(text)} must be {own[1]!r} or {ABSENT!r}")
    encoder = encoder_word(DEEP, parts[0], own[0])
    decoder = decoder_word(DEEP, parts[2], own[2])
    return DeepWord(f"{encoder.text}.{parts[1]}.{decoder.text}", encoder, parts[1] != ABSENT, decoder)
