"""Hand-made layouts of a teacher's U-Net, made by the rules that define them, for any teacher that can be cut.

They are what a searched candidate has to beat. None is part of a search space by being here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from torch import nn

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.options import DEEP, NONE, Side, side_of
from search_spaces.stage_costs import meta_copy
from search_spaces.stage_option import Internals, option_text
from search_spaces.stages import parse_option, stage_blocks, stage_names, teacher_candidate, teacher_word
from search_spaces.surgery import assemble, build_stage
from search_spaces.unet import UNet

SIZE_TOLERANCE = 0.02
FACTORS = tuple(Fraction(k, 16) for k in range(1, 16))
"""Shares of the teacher's widths that :func:`nearest_uniform_width` tries."""


def bk_sdm_tiny(unet: UNet) -> Candidate:
    """BK-SDM-Tiny's layout: the first layer of every encoder stage, the first and the last of every decoder stage.

    The deepest stages (E4, Mid, D4 of SD 1.5) are dropped. On SD 1.5 that is RA-RA-RA-none-RARA-RARA-RARA; a stage
    with fewer layers keeps those it has. Segmind's SD-Tiny ("TinySD") has the same layout.

    Source: Kim et al., arXiv 2305.15798, table 1; github.com/segmind/distill-sd, ``prepare_unet``.

    Raises:
        UserError: a teacher that cannot be cut, or whose deepest stages cannot be dropped.
    """
    options = {}
    for stage in stage_names(unet):
        side = side_of(stage)
        if side is Side.DEEP:
            options[stage] = NONE
            continue
        layers = re.findall("RA?", teacher_word(unet, stage))
        options[stage] = layers[0] if side is Side.ENCODER else "".join((layers[0], layers[-1])[: len(layers)])
    return _checked(unet, options)


def uniform_width(unet: UNet, factor: Fraction, keep_deep: bool = True) -> Candidate:
    """The teacher's own layers, all of them as wide inside as `factor` says: ResNets, feed-forwards and heads.

    What a stage takes and gives stays as it is, so the weights that stay are the teacher's most important ones
    (:mod:`search_spaces.slimming`). A stage whose groups or heads do not divide so gets the nearest legal width.

    Args:
        unet: the teacher's U-Net.
        factor: share of the teacher's widths, in (0, 1].
        keep_deep: whether the deepest stages stay, or are dropped (``none``) as in most searched candidates.

    Raises:
        UserError: a teacher that cannot be cut or slimmed.
    """
    assert 0 < factor <= 1, f"a share of the teacher's widths is in (0, 1], not {factor}"
    options = {}
    for stage, word in teacher_candidate(unet).options.items():
        if stage == DEEP and not keep_deep:
            options[stage] = NONE
            continue
        blocks = stage_blocks(unet, stage)
        layers = [t for b in blocks for a in getattr(b, "attentions", ()) for t in a.transformer_blocks]
        options[stage] = option_text(
            word,
            Internals(
                resnet_width=_nearest(factor, {r.conv1.out_channels // r.norm2.num_groups
                                               for b in blocks for r in b.resnets}),
                ff_width=_nearest(factor, {layer.ff.net[-1].in_features for layer in layers}),
                heads=_nearest(factor, {layer.attn1.heads for layer in layers}),
            ),
        )  # fmt: skip
    return _checked(unet, options)


def nearest_uniform_width(
    unet: UNet, num_params: int, check: Callable[[Candidate], object]
) -> tuple[Candidate, Fraction]:
    """The uniform-width layout of about `num_params`: its candidate and factor.

    Every factor of ``FACTORS`` is tried with the deepest stages kept and, where the teacher lets them, dropped. Of
    those within ``SIZE_TOLERANCE`` of the size the widest is taken, else the nearest in size.

    Args:
        unet: the teacher's U-Net.
        num_params: the size to meet.
        check: raises UserError for a candidate that cannot be used, which is left out.

    Raises:
        UserError: no layout is left, or a teacher that cannot be cut or slimmed.
    """
    meta = meta_copy(unet)  # sizes need no weights
    whole = assemble(meta, teacher_candidate(meta), copy=False)
    stages = {stage: _num_params(module) for stage, module in whole.stages.items()}
    head = _num_params(whole) - sum(stages.values())

    @functools.cache
    def stage_params(stage: str, name: str) -> int:
        return _num_params(build_stage(meta, stage, name, copy=False))

    def distance(each: tuple[Candidate, Fraction]) -> tuple[float, Fraction]:
        size = head + sum(stage_params(stage, name) for stage, name in each[0].options.items())
        far = abs(size / num_params - 1)
        return (far if far > SIZE_TOLERANCE else 0.0, -each[1])

    refused = None
    for candidate, factor in sorted(_uniform_widths(meta), key=distance):
        try:
            check(candidate)
        except UserError as error:  # too narrow: groups of a single value
            refused = error
        else:
            return candidate, factor
    raise refused or UserError("the teacher has no uniform-width layout")


def _num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _uniform_widths(unet: UNet) -> Iterator[tuple[Candidate, Fraction]]:
    try:
        parse_option(unet, DEEP, NONE)
        choices = [True, False]
    except UserError:
        choices = [True]
    for keep_deep in choices:
        for factor in FACTORS:
            yield uniform_width(unet, factor, keep_deep), factor


def _nearest(factor: Fraction, totals: set[int]) -> float:
    """The ratio nearest to `factor` that leaves at least one whole part of each total, and whole parts only.

    As the six digits that an option's text has.
    """
    if not totals:
        return 1.0
    smallest = min(totals)
    legal = [
        ratio
        for kept in range(1, smallest + 1)
        if all((ratio := Fraction(kept, smallest)) * total % 1 == 0 for total in totals)
    ]
    return float(f"{float(min(legal, key=lambda ratio: (abs(ratio - factor), -ratio))):g}")


def _checked(unet: UNet, options: dict[str, str]) -> Candidate:
    return Candidate(options={stage: parse_option(unet, stage, name).text for stage, name in options.items()})
