"""Distillation of the VAE: encoder and decoder options follow the teacher's, side by side on the same batches.

Encoders learn the teacher's mean and standard deviation of an image, decoders the teacher's image of its latents, so
that every student half works with the teacher's other half and with its U-Net: latents keep their scale. The teacher
encodes each image once for all (`nas.data.image_data`) and decodes once a step for all decoders. Every option has a
checkpoint of its own, so any set of them can be asked for at any time, and each comes out as if it were alone.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.atomic import ensure_writable
from nas.block_bank import BlockBank, CorruptBlockError
from nas.distill import checkpoint
from nas.distill.execution import torch_device
from nas.distill.features import loss_summary
from nas.distill.results import Block, OnProgress
from nas.distill.settings import VaeSettings
from nas.distill.vae_losses import decoder_loss, encoder_loss, perceptual_maps
from nas.distill.vae_results import VaeResult
from search_spaces.errors import UserError
from search_spaces.vae import StagedVAE, build_vae_stage, check_vae_supported, parse_option
from search_spaces.vae_option import TEACHER, VAE_DECODER, VAE_ENCODER, VAE_STAGES

if TYPE_CHECKING:
    from nas.data.image_data import ImageBatch, ImageData
    from nas.teacher import Teacher

log = logging.getLogger("nanosd")


def vae_key(teacher: Teacher, block: Block, data_key: str, settings: VaeSettings) -> str:
    """The bank key of a distilled half."""
    return BlockBank.key(*block, teacher.key, data_key, settings.recipe())


def distill_vae(
    teacher: Teacher,
    blocks: Sequence[Block],
    data: ImageData,
    settings: VaeSettings,
    bank: BlockBank,
    work_dir: Path,
    on_progress: OnProgress | None = None,
) -> dict[Block, VaeResult]:
    """Train the halves (`VE` or `VD`, option) that the bank does not hold, and store them there.

    Killed and called again it goes on from the checkpoints in `work_dir`, with the same result bit for bit on one
    thread. Which others are trained beside a half changes nothing of it.

    Raises:
        CorruptBlockError: a damaged bank file, before anything is trained; names the file and the mend.
        UserError: an option that this VAE cannot have, or a bank or `work_dir` that cannot be written.
    """
    check_vae_supported(teacher.vae)
    for stage, option in blocks:
        parse_option(teacher.vae, stage, option)
        assert option != TEACHER, "the teacher's own half needs no training"
    keys = {block: vae_key(teacher, block, data.key, settings) for block in blocks}
    results = {block: found for block in blocks if (found := _from_bank(teacher, bank, block, keys[block]))}
    missing = [block for block in blocks if block not in results]
    if not missing:
        return results
    ensure_writable(bank.folder)
    ensure_writable(Path(work_dir))
    students = [
        _Student(teacher, block, keys[block], Path(work_dir) / f"vae-{keys[block]}.safetensors", settings)
        for block in missing
    ]
    _train(teacher, students, data, settings, bank, on_progress)
    results |= {student.block: student.result for student in students if student.result is not None}
    return {block: results[block] for block in blocks}


def load_vae_stages(teacher: Teacher, results: Mapping[Block, VaeResult], bank: BlockBank) -> dict[Block, nn.Module]:
    """The trained halves, frozen.

    Raises:
        UserError: one whose training was stopped, or that is not in the bank; a damaged bank file.
    """
    loaded = {}
    for block, result in results.items():
        name = f"{block[0]} {block[1]}"
        if result.status == "stopped":
            raise UserError(f"VAE half {name} could not be trained: {result.reason}; lower vae.learning_rate")
        module = build_vae_stage(teacher.vae, *block)
        try:
            bank.get(result.key, module)
        except KeyError:
            raise UserError(f"VAE half {name} ({result.key}) is not in the bank {bank.folder}; distil again") from None
        loaded[block] = module.eval().requires_grad_(False)
    return loaded


def student_vae(teacher: Teacher, stages: Mapping[Block, nn.Module]) -> StagedVAE:
    """A VAE of these halves, and the teacher's own (shared, not copied) where none is given."""
    options = dict.fromkeys(VAE_STAGES, TEACHER) | dict(stages.keys())
    modules = {
        stage: stages[stage, option]
        if (stage, option) in stages
        else build_vae_stage(teacher.vae, stage, TEACHER, False)
        for stage, option in options.items()
    }
    return StagedVAE.from_parts(teacher.vae, options, modules).eval()


class _Student:
    """One half under training: weights, moments, losses and how far it is; all of it is in its checkpoint."""

    def __init__(self, teacher: Teacher, block: Block, key: str, path: Path, settings: VaeSettings) -> None:
        self.block, self.key, self.path, self.settings = block, key, path, settings
        self.is_encoder = block[0] == VAE_ENCODER
        module = build_vae_stage(teacher.vae, *block, seed=settings.seed)
        self.module = module.to(torch_device(settings.device)).eval().requires_grad_(True)
        self.optimizer = checkpoint.make_optimizer([(module, settings.learning_rate)], settings.weight_decay)
        self.curve = torch.full((settings.steps,), torch.nan, dtype=torch.float64)
        self.step = 0
        self.stopped: str | None = None
        self.start_loss: float | None = None
        self.result: VaeResult | None = None
        saved = checkpoint.load(path, key)
        if saved is not None:
            saved.restore("half", module, self.optimizer)
            self.step, self.curve = saved.step, saved.tensors["loss"].clone()
            self.stopped, self.start_loss = saved.info["stopped"], saved.info["start_loss"]

    def save(self) -> None:
        info = {"stopped": self.stopped, "start_loss": self.start_loss}
        checkpoint.save(
            self.path, self.key, self.step, {"half": self.module}, self.optimizer, info, {"loss": self.curve}
        )

    def update(self, loss: Tensor) -> None:
        """One step; a loss or gradient that is not finite stops this half alone."""
        checkpoint.set_learning_rate(self.optimizer, self.step, self.settings.steps, self.settings.warm_up_steps)
        value = loss.detach()
        if torch.isfinite(value):
            self.curve[self.step] = value
            loss.backward()
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip, foreach=True)
            if torch.isfinite(norm):
                self.optimizer.step()
            else:
                self.stopped = f"gradient norm is {float(norm)} at step {self.step + 1}"
        else:
            self.stopped = f"loss is {float(value)} at step {self.step + 1}"
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % self.settings.checkpoint_every == 0 or self.stopped:
            self.save()

    @property
    def running(self) -> bool:
        return self.stopped is None and self.step < self.settings.steps


def _train(
    teacher: Teacher,
    students: Sequence[_Student],
    data: ImageData,
    settings: VaeSettings,
    bank: BlockBank,
    on_progress: OnProgress | None,
) -> None:
    device = torch_device(settings.device)
    vae = teacher.vae if next(teacher.vae.parameters()).device == device else copy.deepcopy(teacher.vae).to(device)
    targets = _Targets(vae, data, settings, device)
    for student in students:
        if student.step == 0:
            student.start_loss = _held_out(student, targets)
    start = min(student.step for student in students)
    source = data.batches(settings.batch_size, settings.seed, start)
    for step in range(start, settings.steps):
        # A student whose checkpoint is further waits for the others.
        here = [student for student in students if student.running and student.step == step]
        batch = next(source)
        for student, loss in targets.losses(here, batch, batch.mean + batch.std * batch.noise):
            student.update(loss)
        if on_progress is not None:
            note = ", ".join(f"{s.block[0]} loss {float(s.curve[step]):.4f}" for s in here)
            on_progress(step + 1, settings.steps, note)
        if not any(student.running for student in students):
            break
    for student in students:
        student.result = _finish(student, targets, bank)
        student.path.unlink(missing_ok=True)


class _Targets:
    """Losses of students on a batch; what the teacher gives is computed once for all of them."""

    def __init__(self, vae: Any, data: ImageData, settings: VaeSettings, device: torch.device) -> None:
        self.vae, self.data, self.device, self.weight = vae, data, device, settings.perceptual_weight
        self.batch_size = settings.batch_size
        # A copy: sums over a file's mapped memory, which may start anywhere, differ in their last bits.
        self.variance = data.mean[data.num_held_out :].clone().var().clamp_min(1e-12).to(device)

    def losses(
        self, students: Sequence[_Student], batch: ImageBatch, latents: Tensor
    ) -> Iterator[tuple[_Student, Tensor]]:
        """The loss of each student, one after the other, so that one graph is in memory at a time."""
        images, mean, std, latents = (t.to(self.device) for t in (batch.images, batch.mean, batch.std, latents))
        target, maps = None, []
        if any(not student.is_encoder for student in students):
            with torch.no_grad():
                target = self.vae.decode(latents, return_dict=False)[0]
                maps = perceptual_maps(self.vae, target) if self.weight else []
        for student in students:
            if student.is_encoder:
                yield student, encoder_loss(student.module(images), mean, std, self.variance)
            else:
                assert target is not None
                yield student, decoder_loss(self.vae, student.module(latents), target, maps, self.weight)


def _held_out(student: _Student, targets: _Targets) -> float | None:
    """Loss on the images that nothing is trained on; None where it is not finite."""
    data, total = targets.data.held_out, 0.0
    with torch.no_grad():
        for part in torch.arange(len(data.rows)).split(targets.batch_size):
            batch = type(data)(*(tensor[part] for tensor in data))
            ((_, loss),) = targets.losses([student], batch, batch.mean)
            total += float(loss) * len(part) / len(data.rows)
    return total if math.isfinite(total) else None


def _finish(student: _Student, targets: _Targets, bank: BlockBank) -> VaeResult:
    _, _, losses, count = loss_summary(student.curve)
    end_loss, reason = None, student.stopped
    if reason is None:
        end_loss = _held_out(student, targets)
        if end_loss is None:
            reason = f"loss on held-out images is not finite after step {count}"
    result = VaeResult(
        stage=student.block[0],
        option=student.block[1],
        key=student.key,
        status="stopped" if reason else "trained",
        reason=reason,
        num_params=sum(p.numel() for p in student.module.parameters()),
        num_steps=count,
        start_loss=student.start_loss,
        end_loss=end_loss,
        losses=losses,
    )
    if reason is None:
        bank.put(result.key, student.module, result.model_dump(exclude={"key", "status"}))
    else:
        log.warning("%s %s was not trained: %s", *student.block, reason)
    return result


def _from_bank(teacher: Teacher, bank: BlockBank, block: Block, key: str) -> VaeResult | None:
    if not bank.has(key):
        return None
    try:
        meta = bank.get(key, build_vae_stage(teacher.vae, *block))
        return VaeResult.model_validate({**meta, "key": key, "status": "bank"})
    except UserError:
        raise
    except ValueError:
        raise CorruptBlockError(
            f"block bank file {bank.record_path(key)} is damaged: its results cannot be read; delete it, "
            "it will be trained again"
        ) from None


__all__ = ["VAE_DECODER", "VAE_ENCODER", "VaeResult", "distill_vae", "load_vae_stages", "student_vae", "vae_key"]
