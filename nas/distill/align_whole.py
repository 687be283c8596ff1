"""End-to-end alignment of a whole student, VAE encoder and U-Net, with the whole teacher by noise prediction.

Loss = |U_s(a_t z_s + s_t eps, t, c) - U_t(a_t z_t + s_t eps, t, c)|^2 / Var(U_t(...)), with z_s and z_t the
student's and the teacher's latents of one image and the same eps, t, c (NanoSD, arXiv 2601.09823, its alignment).
The student's U-Net is trained, its encoder stays as it was distilled: it goes on working with the teacher's networks.
"""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nas.atomic import ensure_writable
from nas.data.dataset import NULL_SHARE, step_generator, unique_captions
from nas.distill import checkpoint
from nas.distill.align import backward
from nas.distill.features import loss_summary
from nas.distill.results import OnProgress
from nas.distill.settings import AlignSettings
from nas.fidelity.errors import FidelityError
from nas.fidelity.uncertainty import mean_interval
from nas.sampling import add_noise, alphas_cumprod

if TYPE_CHECKING:
    from nas.data.image_data import ImageData
    from nas.fidelity.uncertainty import Interval
    from nas.teacher import Teacher
    from search_spaces.unet import StagedUNet

log = logging.getLogger("nanosd")

# Timesteps and prompts of a step are drawn apart from its images, whose stream is the VAE's training's.
_STREAM = 2**29
HELD_OUT_ROUNDS = 4


@dataclass(frozen=True)
class WholeResult:
    """An aligned U-Net, frozen; the one given where the training stopped on a loss that is not finite (`reason`)."""

    student: StagedUNet
    losses: tuple[float, ...]
    num_steps: int
    reason: str | None


class _Pair(NamedTuple):
    """Noised latents (B, C, h, w) of the same images by both encoders, and what else the U-Nets read."""

    own: Tensor
    teachers: Tensor
    timesteps: Tensor
    context: Tensor


def align_whole(
    teacher: Teacher,
    student: StagedUNet,
    vae: Any,
    data: ImageData,
    settings: AlignSettings,
    work_dir: Path,
    on_progress: OnProgress | None = None,
) -> WholeResult:
    """Align a copy of `student` behind the encoder of `vae` with the teacher behind its own.

    The state lives in `work_dir/align.safetensors`: killed and called again it goes on, bit for bit on one thread;
    called after the end it trains nothing.

    Args:
        vae: the student's (`student_vae`), in eval mode; it is not changed.

    Raises:
        UserError: `work_dir` cannot be written.
    """
    path = Path(work_dir) / "align.safetensors"
    aligned = copy.deepcopy(student).eval().requires_grad_(True)
    digests = [checkpoint.module_digest([aligned]), checkpoint.module_digest([vae.encoder])]
    key = json.dumps([teacher.key, data.key, settings.recipe(), digests])
    optimizer = checkpoint.make_optimizer([(aligned, settings.learning_rate)], settings.weight_decay)
    curve = torch.full((settings.steps,), torch.nan, dtype=torch.float64)
    start, reason = 0, None
    saved = checkpoint.load(path, key)
    if saved is not None:
        start, reason, curve = saved.step, saved.info["stopped"], saved.tensors["loss"].clone()
        saved.restore("unet", aligned, optimizer if start < settings.steps else None)
    del saved
    if start < settings.steps:
        ensure_writable(Path(work_dir))
    pairs = _Pairs(teacher, vae, data)
    source = data.batches(settings.batch_size, settings.seed, start)
    for step in range(start, settings.steps):
        batch = next(source)
        if reason is None:
            pair = pairs.noised(batch.images, batch.mean, batch.noise, *pairs.drawn(batch.rows, settings.seed, step))
            with torch.no_grad():
                target = teacher.unet(pair.teachers, pair.timesteps, pair.context, return_dict=False)[0]
            checkpoint.set_learning_rate(optimizer, step, settings.steps, settings.warm_up_steps)
            output = aligned(pair.own, pair.timesteps, pair.context, return_dict=False)[0]
            reason = backward(aligned, output, target, curve, step, settings.clip)
            if reason is None:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        last = step + 1 == settings.steps
        if last or (step + 1) % settings.checkpoint_every == 0:
            modules, moments = {"unet": aligned}, None if last else optimizer
            checkpoint.save(path, key, step + 1, modules, moments, {"stopped": reason}, {"loss": curve})
        if on_progress is not None:
            on_progress(step + 1, settings.steps, f"relative loss {float(curve[step]):.4f}")
    if reason is not None:
        log.warning("alignment of %s stopped: %s; it keeps the weights it had", student.candidate.id, reason)
        aligned = copy.deepcopy(student)
    _, _, losses, count = loss_summary(curve)
    return WholeResult(aligned.eval().requires_grad_(False), losses, count, reason)


def whole_noise_error(
    teacher: Teacher, student: Any, vae: Any, data: ImageData, seed: int, batch_size: int = 32
) -> tuple[float, Interval | None]:
    """Noise error of the whole student on held-out images, each encoded by its own encoder, with its 95 % interval.

    |eps_s - eps_t|^2 / Var(eps_t): the alignment's loss, every held-out image at `HELD_OUT_ROUNDS` timesteps that are
    spread over the schedule.

    Raises:
        FidelityError: it is not finite.
    """
    pairs, held = _Pairs(teacher, vae, data), data.held_out
    rows = held.rows.repeat(HELD_OUT_ROUNDS)
    generator = torch.Generator().manual_seed(seed)
    total = len(pairs.alphas)
    steps = ((torch.arange(len(rows)) + 0.5) * total / len(rows)).long()
    steps = steps[torch.randperm(len(rows), generator=generator)]
    noise = torch.randn((len(rows), *held.mean.shape[1:]), generator=generator)
    own, teachers = [], []
    with torch.no_grad():
        for part in torch.arange(len(rows)).split(batch_size):
            images = rows[part]
            pair = pairs.noised(
                held.images[images], held.mean[images], noise[part], steps[part], pairs.contexts(images)
            )
            own.append(student(pair.own, pair.timesteps, pair.context, return_dict=False)[0])
            teachers.append(teacher.unet(pair.teachers, pair.timesteps, pair.context, return_dict=False)[0])
    ours, target = torch.cat(own).double(), torch.cat(teachers).double()
    if not bool(torch.isfinite(ours).all()):
        raise FidelityError("whole_noise_error", "values that the student gives are not finite")
    shares = (ours - target).square().flatten(1).mean(1) / target.var().clamp_min(1e-12)
    return float(shares.mean()), mean_interval(shares.numpy())


class _Pairs:
    """Makes both networks' inputs from images."""

    def __init__(self, teacher: Teacher, vae: Any, data: ImageData) -> None:
        captions = unique_captions(data.captions)
        self.table = teacher.encode_prompts(captions)
        position = {caption: i for i, caption in enumerate(captions)}
        self.caption_rows = torch.tensor([position[caption] for caption in data.captions])
        self.alphas = alphas_cumprod(teacher.scheduler.config)
        self.vae, self.scale = vae, float(teacher.vae.config.scaling_factor)

    def contexts(self, rows: Tensor) -> Tensor:
        """Prompt embeddings (B, tokens, dim) of images."""
        return self.table[self.caption_rows[rows]]

    def drawn(self, rows: Tensor, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Timesteps (B,), uniform over the schedule, and contexts, 10 % of them of the empty prompt."""
        generator = step_generator(seed, _STREAM + step)
        timesteps = torch.randint(len(self.alphas), (len(rows),), generator=generator)
        keep = torch.rand(len(rows), generator=generator) >= NULL_SHARE
        return timesteps, self.table[self.caption_rows[rows] * keep]

    def noised(self, images: Tensor, mean: Tensor, noise: Tensor, timesteps: Tensor, context: Tensor) -> _Pair:
        with torch.no_grad():
            own = self.vae.encode(images).latent_dist.mean
        return _Pair(
            add_noise(self.alphas, own * self.scale, noise, timesteps),
            add_noise(self.alphas, mean * self.scale, noise, timesteps),
            timesteps,
            context,
        )
