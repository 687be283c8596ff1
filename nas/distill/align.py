"""Output-level distillation: whole students follow the teacher's noise prediction on noised data latents.

Loss = |student(z_t, t, c) - teacher(z_t, t, c)|^2 / Var(teacher(z_t, t, c))   (NanoSD, arXiv 2601.09823,
end-to-end alignment). Several students share one teacher pass a step.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas.atomic import ensure_writable
from nas.distill import checkpoint
from nas.distill.features import loss_summary, relative_loss
from nas.distill.results import BatchSource, OnProgress
from nas.distill.settings import AlignSettings
from nas.sampling import add_noise, alphas_cumprod

if TYPE_CHECKING:
    from nas.teacher import Teacher
    from search_spaces.unet import StagedUNet

log = logging.getLogger("nanosd")


@dataclass(frozen=True)
class AlignResult:
    """One aligned student.

    `student` is a copy that shares no tensor with the one given, frozen and in eval mode; where the
    training stopped on a non-finite loss it holds the weights it came with and `reason` says why.
    Losses are relative to the teacher's variance: before the first update, over the last 5 % of the
    steps, and about 50 means over the whole course. `num_steps_now` counts steps of this call.
    """

    student: StagedUNet
    first_loss: float | None
    last_loss: float | None
    losses: tuple[float, ...]
    num_steps: int
    num_steps_now: int
    reason: str | None


def align(
    teacher: Teacher,
    student: StagedUNet,
    batches: BatchSource,
    settings: AlignSettings,
    work_dir: Path,
    data_key: str,
    on_progress: OnProgress | None = None,
) -> AlignResult:
    """Align one student; see `align_many`."""
    (result,) = align_many(teacher, {"student": student}, batches, settings, work_dir, data_key, on_progress).values()
    return result


def align_many(
    teacher: Teacher,
    students: Mapping[str, StagedUNet],
    batches: BatchSource,
    settings: AlignSettings,
    work_dir: Path,
    data_key: str,
    on_progress: OnProgress | None = None,
) -> dict[str, AlignResult]:
    """Align copies of `students` (name -> network) with one teacher pass a step.

    Each student's result is the same as when it is aligned alone. The state lives in
    `work_dir/align.safetensors`: killed and called again it goes on, bit for bit on one thread; called
    after the end it returns the stored result and trains nothing. Other students, teacher, data or
    settings start afresh.

    Raises:
        UserError: `work_dir` cannot be written.
    """
    path = Path(work_dir) / "align.safetensors"
    # Deep copies: stages come from the bank and the head from the teacher, and both are shared.
    copies = {name: copy.deepcopy(student).eval().requires_grad_(True) for name, student in students.items()}
    key = _key(teacher, copies, settings, data_key)
    optimizer = checkpoint.make_optimizer(
        ((student, settings.learning_rate) for student in copies.values()), settings.weight_decay
    )
    curves = {name: torch.full((settings.steps,), torch.nan, dtype=torch.float64) for name in copies}
    stopped: dict[str, str] = {}
    start = 0
    saved = checkpoint.load(path, key)
    if saved is not None:
        start = saved.step
        stopped = dict(saved.info["stopped"])
        for name, student in copies.items():
            curves[name] = saved.tensors[f"loss {name}"]
            saved.restore(name, student, optimizer if start < settings.steps else None)
    del saved
    if start < settings.steps:
        ensure_writable(Path(work_dir))
    source = batches(start)
    alphas = alphas_cumprod(teacher.scheduler.config)
    for step in range(start, settings.steps):
        batch = next(source)
        with torch.no_grad():
            noisy = add_noise(alphas, batch.latents, batch.noise, batch.timesteps)
            target = teacher.unet(noisy, batch.timesteps, batch.context, return_dict=False)[0]
        checkpoint.set_learning_rate(optimizer, step, settings.steps, settings.warm_up_steps)
        for name, student in copies.items():
            if name not in stopped:
                output = student(noisy, batch.timesteps, batch.context, return_dict=False)[0]
                reason = backward(student, output, target, curves[name], step, settings.clip)
                if reason is not None:
                    stopped[name] = reason
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        last = step + 1 == settings.steps
        if last or (step + 1) % settings.checkpoint_every == 0:
            extra = {f"loss {name}": curve for name, curve in curves.items()}
            # A finished alignment keeps its weights only: the moments are two thirds of the file.
            checkpoint.save(path, key, step + 1, copies, None if last else optimizer, {"stopped": stopped}, extra)
        if on_progress is not None:
            running = [float(c[step]) for name, c in curves.items() if name not in stopped]
            mean = sum(running) / len(running) if running else float("nan")
            on_progress(step + 1, settings.steps, f"{len(running)} students, mean relative loss {mean:.4f}")
    return {
        name: _result(students[name], copies[name], curves[name], stopped.get(name), settings.steps - start)
        for name in copies
    }


def _key(teacher: Teacher, students: Mapping[str, nn.Module], settings: AlignSettings, data_key: str) -> str:
    digests = {name: checkpoint.module_digest([student]) for name, student in students.items()}
    return json.dumps([teacher.key, data_key, settings.recipe(), digests], sort_keys=True)


def backward(student: nn.Module, output: Tensor, target: Tensor, curve: Tensor, step: int, clip: float) -> str | None:
    """Gradients of one student; the reason to stop it where loss or gradient is not finite."""
    loss = relative_loss([output], [target], [target.var().clamp_min(1e-12)])
    curve[step] = value = loss.detach()
    if not torch.isfinite(value):
        return f"loss is {float(value)} at step {step + 1}"
    loss.backward()
    norm = nn.utils.clip_grad_norm_(student.parameters(), clip, foreach=True)
    if not torch.isfinite(norm):
        student.zero_grad(set_to_none=True)
        return f"gradient norm is {float(norm)} at step {step + 1}"
    return None


def _result(given: StagedUNet, aligned: StagedUNet, curve: Tensor, reason: str | None, now: int) -> AlignResult:
    if reason is not None:
        log.warning("alignment of %s stopped: %s; it keeps the weights it had", given.candidate.id, reason)
        aligned = copy.deepcopy(given)
    first, last, losses, count = loss_summary(curve)
    return AlignResult(aligned.eval().requires_grad_(False), first, last, losses, count, now, reason)
