"""Brief distillation of assembled candidates with stops on the way, where they can be measured.

The loss, schedule and batches are those of :mod:`nas.distill.align`, so that a candidate after all its steps has the
same weights as one aligned for as many; but nothing is kept on the disk, because an evaluation that is cut short is
repeated, and the caller decides at every rung whether to go on.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from nas.distill import checkpoint
from nas.distill.align import backward
from nas.distill.results import BatchSource
from nas.distill.settings import AlignSettings
from nas.sampling import add_noise, alphas_cumprod

if TYPE_CHECKING:
    from nas.teacher import Teacher
    from search_spaces.unet import StagedUNet


class DivergedError(ValueError):
    """Loss or gradients of a student are not finite; the message says at which step."""


def distill_candidates(
    teacher: Teacher,
    students: Mapping[str, StagedUNet],
    batches: BatchSource,
    settings: AlignSettings,
    rungs: Sequence[int],
    targets: Callable[[int], torch.Tensor] | None = None,
) -> Iterator[tuple[int, dict[str, StagedUNet]]]:
    """Distil copies of `students` with one teacher pass a step; yields (steps done, the copies) at each rung.

    What is yielded is trained on afterwards: measure it before asking for the next. 0 may be the first rung.

    Args:
        teacher: of the target noise.
        students: name to network; they are not changed.
        batches: source of training batches, see :meth:`nas.run.context.RunContext.batches`.
        settings: its `steps` are those of the whole schedule (cosine to zero at their end).
        rungs: numbers of steps, growing, none above `settings.steps`.
        targets: the teacher's noise prediction by step, where it was made before (:mod:`nas.distill.targets`).

    Raises:
        DivergedError: a student's loss or gradient is not finite.
    """
    copies = {name: copy.deepcopy(student).eval().requires_grad_(True) for name, student in students.items()}
    optimizer = checkpoint.make_optimizer(
        ((student, settings.learning_rate) for student in copies.values()), settings.weight_decay
    )
    curve = torch.full((settings.steps,), torch.nan, dtype=torch.float64)
    alphas = alphas_cumprod(teacher.scheduler.config)
    source = batches(0)
    step = 0
    for rung in rungs:
        assert step <= rung <= settings.steps, f"rungs {list(rungs)} must grow up to {settings.steps}"
        while step < rung:
            batch = next(source)
            with torch.no_grad():
                noisy = add_noise(alphas, batch.latents, batch.noise, batch.timesteps)
                if targets is None:
                    target = teacher.unet(noisy, batch.timesteps, batch.context, return_dict=False)[0]
                else:
                    target = targets(step)
            checkpoint.set_learning_rate(optimizer, step, settings.steps, settings.warm_up_steps)
            for name, student in copies.items():
                output = student(noisy, batch.timesteps, batch.context, return_dict=False)[0]
                reason = backward(student, output, target, curve, step, settings.clip)
                if reason is not None:
                    raise DivergedError(f"distillation of {name} diverged: {reason}")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
        yield step, copies
