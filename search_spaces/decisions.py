"""Decisions: what may be chosen in a stage, and the stage options that the choices make.

A stage given as a list is one decision. A stage given as a mapping has one decision a key, and its
options are all their combinations; combinations that make the same network count once (the feed-forward
width of a word without attention, say).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from search_spaces.errors import UserError, shortened, shown
from search_spaces.options import DEEP, NONE, check_word, side_of
from search_spaces.stage_option import MIN_RATIO, Attention, Conv, Internals, check_ratio, option_text, split_option
from search_spaces.vae_option import (
    STEPS,
    TEACHER,
    VAE_STAGES,
    TinyLevel,
    check_levels,
    parse_steps,
    parse_vae_option,
    vae_text,
)

MAX_STAGE_COMBINATIONS = 200_000


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


OptionName: TypeAlias = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int), Field(min_length=1)]
Ratio: TypeAlias = Annotated[
    float, Field(ge=MIN_RATIO, le=1, strict=True), AfterValidator(lambda value: check_ratio("ratio", value))
]
Width: TypeAlias = Annotated[int, Field(ge=1, le=9999, strict=True)]
Depth: TypeAlias = Annotated[int, Field(ge=1, le=99, strict=True)]
Options: TypeAlias = tuple[OptionName, ...]


class UNetDecisions(BaseModel):
    """Decisions of one U-Net stage; its options are all their combinations."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    word: Options
    """Words over R and A, such as RARA, RA, RR, R, R@3; for ``deep``: none, or encoder.mid.decoder."""
    resnet_width: tuple[Ratio, ...] = Field(default=(1.0,), min_length=1)
    """Hidden channels of the ResNet blocks, as shares of the teacher's."""
    ff_width: tuple[Ratio, ...] = Field(default=(1.0,), min_length=1)
    """Hidden units of the feed-forwards, as shares of the teacher's."""
    heads: tuple[Ratio, ...] = Field(default=(1.0,), min_length=1)
    """Attention heads kept, as shares of the teacher's."""
    attention: tuple[Attention, ...] = Field(default=(Attention.BOTH,), min_length=1)
    """Attentions kept: both, cross, self or none."""
    conv: tuple[Conv, ...] = Field(default=(Conv.FULL,), min_length=1)
    """3x3 convolutions: full or separable."""


class VaeDecisions(BaseModel):
    """Decisions of the VAE's encoder or decoder: the teacher's own, or a tiny ResNet."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: tuple[Literal["teacher", "tiny"], ...] = Field(default=("teacher", "tiny"), min_length=1)
    """The teacher's own, a tiny ResNet, or both to choose from."""
    width: tuple[Annotated[tuple[Width, ...], Field(min_length=1)], ...] = Field(min_length=1)
    """Channels to choose from, one list a level, full resolution first."""
    depth: tuple[Annotated[tuple[Depth, ...], Field(min_length=1)], ...] = Field(min_length=1)
    """Tiny ResNet blocks to choose from, one list a level, full resolution first."""


UNET_FORM = "decisions of a U-Net stage"
VAE_FORM = "decisions of a VAE stage"


def form_of(value: Any) -> str:
    """Which of the three forms what is said of a stage has, by its keys alone."""
    if isinstance(value, UNetDecisions):
        return UNET_FORM
    if isinstance(value, VaeDecisions):
        return VAE_FORM
    if isinstance(value, Mapping):
        is_vae = "word" not in value and bool(set(value) & {"kind", "width", "depth"})
        return VAE_FORM if is_vae else UNET_FORM
    return "list of options"


StageChoices: TypeAlias = Annotated[
    Annotated[Options, Tag("list of options")]
    | Annotated[UNetDecisions, Tag(UNET_FORM)]
    | Annotated[VaeDecisions, Tag(VAE_FORM)],
    Discriminator(form_of),
]


@dataclass(frozen=True)
class Decision:
    """One choice: its name (``E1``, ``E1.word``, ``VE.width2``), its stage and its values as text."""

    name: str
    stage: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class StageTable:
    """The decisions of a stage and what their combinations make.

    Attributes:
        decisions: in order; combinations are counted with the last varying fastest.
        options: distinct option names, in order of first appearance.
        option_of: (combinations,) index into ``options``.
        first: (options, decisions) the first combination that makes each option: its canonical one.
    """

    decisions: tuple[Decision, ...]
    options: tuple[str, ...]
    option_of: NDArray[np.int64]
    first: NDArray[np.int64]

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(decision.values) for decision in self.decisions)


def stage_table(stage: str, choices: tuple[str, ...] | UNetDecisions | VaeDecisions) -> StageTable:
    """Expand what a search space says of one stage.

    Raises:
        UserError: choices of another kind of stage, repeated values, too many combinations, or options that are not
            written as they should be.
    """
    if isinstance(choices, tuple):
        columns = {stage: [_checked(stage, name) for name in choices]}
        return _table(stage, columns, lambda name: name)
    if isinstance(choices, VaeDecisions):
        if stage not in VAE_STAGES:
            raise UserError(
                f"{shortened(stage)}: kind, width and depth are decisions of VE and VD; a U-Net stage has "
                "word and others"
            )
        return _vae_table(stage, choices)
    if stage in VAE_STAGES or stage == STEPS:
        legal = "kind, width and depth, or a list of options" if stage in VAE_STAGES else "a list of step counts"
        raise UserError(f"{stage}: has no words over R and A; give {legal}")
    side_of(stage)
    if stage == DEEP and Attention.NONE in choices.attention:
        raise UserError(f"{stage}: attention 'none' is no choice here; legal are both, cross, self")
    columns = {
        f"{stage}.word": list(choices.word),
        **{
            f"{stage}.{key}": list(getattr(choices, key))
            for key in ("resnet_width", "ff_width", "heads", "attention", "conv")
            if key in choices.model_fields_set
        },
    }
    keys = [name.partition(".")[2] for name in columns][1:]

    def compose(word: str, *values: Any) -> str:
        return option_text(word, Internals(**dict(zip(keys, values, strict=True))))

    for word in choices.word:
        if split_option(stage, word)[1] != Internals() or "_" in word:
            raise UserError(
                f"{stage}: word {shown(word)} names internals; give them as decisions of their own beside it"
            )
        check_word(stage, word)
    return _table(stage, columns, compose)


def _vae_table(stage: str, choices: VaeDecisions) -> StageTable:
    levels = len(choices.width)
    check_levels(stage, max(levels, len(choices.depth)))
    if len(choices.depth) != levels:
        raise UserError(
            f"{stage}: width has {levels} levels and depth {len(choices.depth)}; give one list a level in both"
        )
    columns: dict[str, list[Any]] = {f"{stage}.kind": list(choices.kind)}
    columns |= {f"{stage}.width{i + 1}": list(values) for i, values in enumerate(choices.width)}
    columns |= {f"{stage}.depth{i + 1}": list(values) for i, values in enumerate(choices.depth)}

    def compose(kind: str, *values: int) -> str:
        if kind == TEACHER:
            return TEACHER
        return vae_text([TinyLevel(w, d) for w, d in zip(values[:levels], values[levels:], strict=True)])

    return _table(stage, columns, compose)


def _checked(stage: str, name: str) -> str:
    if stage in VAE_STAGES:
        parse_vae_option(stage, name)
    elif stage == STEPS:
        parse_steps(name)
    else:
        side_of(stage)
        word, internals = split_option(stage, name)
        if word != NONE:
            check_word(stage, word)
        canonical = option_text(word, internals)
        if canonical != name:
            raise UserError(f"{stage}: write option {shown(name)} as {shown(canonical)}")
        if word == NONE and stage != DEEP:
            raise UserError(f"{stage}: {NONE!r} is an option of {DEEP!r} only; give words such as RA or R")
    return name


def _table(stage: str, columns: Mapping[str, list[Any]], compose: Callable[..., str]) -> StageTable:
    for name, values in columns.items():
        if not values:
            raise UserError(f"{name} has no options; give it at least one")
    total = math.prod(len(values) for values in columns.values())
    if total > MAX_STAGE_COMBINATIONS:
        raise UserError(
            f"{stage}: {total:,} combinations of its decisions; the most that a stage may have is "
            f"{MAX_STAGE_COMBINATIONS:,}: give fewer choices"
        )
    for name, values in columns.items():
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            # A number as it is written, an enum as its word.
            given = f"{value:g}" if isinstance(value, float) else shown(str(value))
            raise UserError(f"{name} lists {given} twice; list it once")
    index: dict[str, int] = {}
    option_of = np.empty(total, dtype=np.int64)
    first: list[int] = []
    for row, chosen in enumerate(itertools.product(*columns.values())):
        name = compose(*chosen)
        if name not in index:
            index[name] = len(index)
            first.append(row)
        option_of[row] = index[name]
    decisions = tuple(
        Decision(name, stage, tuple(f"{v:g}" if isinstance(v, float) else str(v) for v in values))
        for name, values in columns.items()
    )
    sizes = tuple(len(values) for values in columns.values())
    combos = np.stack(np.unravel_index(np.array(first), sizes), axis=1).astype(np.int64)
    return StageTable(decisions, tuple(index), option_of, combos)
