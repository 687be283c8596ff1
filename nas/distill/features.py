"""What a block is trained on: a stage's inputs and outputs in the teacher, and the loss between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from search_spaces.options import DEEP, NONE

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace
    from search_spaces.unet import StageIO


def stage_context(space: SearchSpace, stage: str) -> str:
    """`deep=none` for the decoder stage that reads the encoder's output because `deep` is always dropped."""
    stages = list(space.stages)
    dropped = DEEP in stages and tuple(space.options[DEEP]) == (NONE,)
    return f"{DEEP}={NONE}" if dropped and stages[stages.index(DEEP) + 1] == stage else ""


def teacher_targets(record: Mapping[str, StageIO], stage: str, context: str) -> tuple[list[Tensor], list[Tensor]]:
    """A stage's inputs and targets from one recorded teacher pass, contiguous.

    With context `deep=none` the first input is what entered `deep` (the last encoder's output) instead
    of what left it; the target stays the teacher's. Contiguous, because torch 2.13 crashes in
    GroupNorm's backward for a channels_last input that needs no gradient.
    """
    inputs = list(record[stage].inputs)
    if context:
        inputs[0] = record[DEEP].inputs[0]
    return [t.contiguous() for t in inputs], [t.contiguous() for t in record[stage].outputs]


def relative_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], variances: Sequence[Tensor]) -> Tensor:
    """Mean over outputs of the squared error divided by the target's variance; a scalar."""
    terms = [(o - t).square().mean() / v for o, t, v in zip(outputs, targets, variances, strict=True)]
    return torch.stack(terms).mean()


def loss_summary(curve: Tensor) -> tuple[float | None, float | None, tuple[float, ...], int]:
    """First loss, mean of the last 5 % of the steps, about 50 means over the course, finite steps.

    `curve` (steps,) is NaN where no step was made.
    """
    finite = curve[torch.isfinite(curve)]
    count = len(finite)
    if not count:
        return None, None, (), 0
    means = tuple(float(part.mean()) for part in finite.split(-(-count // 50)))
    return float(finite[0]), float(finite[-max(1, count // 20) :].mean()), means, count


def upsampled_size(stage: str, h: Tensor, target: Tensor) -> dict[str, Any]:
    """Keyword arguments of a decoder stage whose output is not exactly as large as h or double that."""
    size = (int(target.shape[-2]), int(target.shape[-1]))
    if stage == DEEP or stage[0] == "E" or size in (tuple(h.shape[-2:]), (2 * h.shape[-2], 2 * h.shape[-1])):
        return {}
    return {"output_size": size}
