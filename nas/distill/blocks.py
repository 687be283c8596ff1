"""Feature-wise generative distillation (FwGD) of all surrogate blocks, one teacher pass a step.

Each surrogate is trained alone to map the teacher's features into the teacher's features (NanoSD,
arXiv 2601.09823): loss = mean over the stage's outputs of |student(F) - teacher(F)|^2 / Var(teacher(F)),
so 1 is what predicting the mean would cost and losses of different stages compare. The teacher runs
once a step for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nas.atomic import ensure_writable
from nas.block_bank import BlockBank, CorruptBlockError
from nas.distill import checkpoint
from nas.distill.features import loss_summary, relative_loss, stage_context, teacher_targets, upsampled_size
from nas.distill.results import BatchSource, Block, BlockResult, OnProgress, read_results, save_results
from nas.distill.settings import DistillSettings
from nas.sampling import add_noise, alphas_cumprod
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.surgery import assemble, build_stage, teacher_candidate

if TYPE_CHECKING:
    from nas.data import Batch
    from nas.teacher import Teacher
    from search_spaces.space import SearchSpace
    from search_spaces.unet import StageIO

log = logging.getLogger("nanosd")

# Measured on a small teacher: at 2e-3 a D3 whose h input changed ends at twice the loss that 1e-3 gives,
# while every block with fewer layers gains from 4e-3.
REFIT_FACTOR = 0.1

__all__ = [
    "Block",
    "BlockResult",
    "block_key",
    "distill_blocks",
    "load_blocks",
    "read_results",
    "save_results",
    "surrogate_blocks",
]


def surrogate_blocks(unet: nn.Module, space: SearchSpace) -> list[Block]:
    """The (stage, option) pairs that need training, in decision order.

    All options but the teacher's own, which copies weights exactly, and `none`, which has none. The
    teacher's word of a stage whose input changed (`stage_context`) is trained too: 31 for `nanosd`.
    """
    own = teacher_candidate(unet).options
    return [
        (stage, option)
        for stage in space.stages
        for option in space.options[stage]
        if option != NONE and (option != own[stage] or stage_context(space, stage))
    ]


def block_key(space: SearchSpace, block: Block, teacher_key: str, data_key: str, settings: DistillSettings) -> str:
    """The bank key of a surrogate of this space."""
    return BlockBank.key(*block, teacher_key, data_key, settings.recipe(), stage_context(space, block[0]))


def distill_blocks(
    teacher: Teacher,
    space: SearchSpace,
    batches: BatchSource,
    settings: DistillSettings,
    bank: BlockBank,
    work_dir: Path,
    data_key: str,
    on_progress: OnProgress | None = None,
) -> dict[Block, BlockResult]:
    """Train every surrogate block of `space` that the bank does not hold, and store it there.

    Blocks found in the bank are not trained; a block whose file was deleted is trained again, alone.
    Killed and called again with the same arguments it goes on from `work_dir/distill.safetensors`, with
    the same result bit for bit on one thread.

    Raises:
        CorruptBlockError: a damaged bank file, before anything is trained; names the file and the mend.
        UserError: the bank or `work_dir` cannot be written.
    """
    results: dict[Block, BlockResult] = {}
    missing: list[Block] = []
    blocks = surrogate_blocks(teacher.unet, space)
    for block in blocks:
        found = _from_bank(teacher, bank, block, block_key(space, block, teacher.key, data_key, settings))
        if found is None:
            missing.append(block)
        else:
            results[block] = found
    trainer = _Trainer(teacher, space, batches, settings, bank, Path(work_dir), data_key)
    groups = trainer.groups(missing)
    if groups:
        ensure_writable(bank.folder)
        ensure_writable(Path(work_dir))
    for number, group in enumerate(groups):

        def report(done: int, note: str, number: int = number) -> None:
            if on_progress is not None:
                on_progress(number * settings.steps + done, len(groups) * settings.steps, note)

        results |= trainer.train(group, report)
    return {block: results[block] for block in blocks}


def load_blocks(unet: nn.Module, results: Mapping[Block, BlockResult], bank: BlockBank) -> dict[Block, nn.Module]:
    """The trained modules of `results` (stopped blocks left out), frozen, for `assemble`.

    Raises:
        CorruptBlockError: a bank file was damaged since; the message names it and the mend.
    """
    loaded = {}
    for (stage, option), result in results.items():
        if result.status == "stopped":
            continue
        module = build_stage(unet, stage, option)
        try:
            bank.get(result.key, module)
        except KeyError:
            raise UserError(
                f"block {stage} {option} ({result.key}) is not in the bank {bank.folder}; distil again"
            ) from None
        loaded[stage, option] = module.eval().requires_grad_(False)
    return loaded


def _from_bank(teacher: Teacher, bank: BlockBank, block: Block, key: str) -> BlockResult | None:
    if not bank.has(key):
        return None
    try:
        meta = bank.get(key, build_stage(teacher.unet, *block))
        return BlockResult.model_validate({**meta, "key": key, "status": "bank"})
    except UserError:
        raise
    except ValueError:
        raise CorruptBlockError(
            f"block bank file {bank.record_path(key)} is damaged: its results cannot be read; delete it, "
            "it will be trained again"
        ) from None


class _Trainer:
    """Trains groups of blocks side by side, with one checkpoint file."""

    def __init__(
        self,
        teacher: Teacher,
        space: SearchSpace,
        batches: BatchSource,
        settings: DistillSettings,
        bank: BlockBank,
        work_dir: Path,
        data_key: str,
    ) -> None:
        self.teacher, self.space, self.batches, self.settings, self.bank = teacher, space, batches, settings, bank
        self.data_key = data_key
        self.alphas = alphas_cumprod(teacher.scheduler.config)
        self.path = work_dir / "distill.safetensors"
        self.run_key = BlockBank.key("", "", teacher.key, data_key, settings.recipe())

    def key(self, block: Block) -> str:
        return block_key(self.space, block, self.teacher.key, self.data_key, self.settings)

    def learning_rate(self, block: Block) -> float:
        """The teacher's own word, re-fitted to another input, is near its optimum and starts gently."""
        refit = block[1] == teacher_candidate(self.teacher.unet).options[block[0]]
        return self.settings.learning_rate * (REFIT_FACTOR if refit else 1.0)

    def groups(self, blocks: Sequence[Block]) -> list[list[Block]]:
        """Blocks that go on from the checkpoint first, then the others, at most `max_parallel` at once."""
        saved = checkpoint.load(self.path, self.run_key)
        known = set(saved.info["keys"].values()) if saved else set()
        resumed = [block for block in blocks if self.key(block) in known]
        fresh = [block for block in blocks if self.key(block) not in known]
        size = self.settings.max_parallel or max(len(fresh), 1)
        return [g for g in [resumed, *(fresh[i : i + size] for i in range(0, len(fresh), size))] if g]

    def train(self, blocks: Sequence[Block], report: Callable[[int, str], None]) -> dict[Block, BlockResult]:
        settings, names = self.settings, {block: f"{block[0]}/{block[1]}" for block in blocks}
        modules = {b: build_stage(self.teacher.unet, *b).eval().requires_grad_(True) for b in blocks}
        optimizer = checkpoint.make_optimizer(
            ((modules[b], self.learning_rate(b)) for b in blocks), settings.weight_decay
        )
        curves = {b: torch.full((settings.steps,), torch.nan, dtype=torch.float64) for b in blocks}
        stopped: dict[Block, str] = {}
        start = 0
        saved = checkpoint.load(self.path, self.run_key)
        if saved and all(
            names[b] in saved.info["keys"] and self.key(b) == saved.info["keys"][names[b]] for b in blocks
        ):
            start = saved.step
            for b in blocks:
                saved.restore(names[b], modules[b], optimizer)
                curves[b] = saved.tensors[f"loss {names[b]}"]
                if names[b] in saved.info["stopped"]:
                    stopped[b] = saved.info["stopped"][names[b]]
        del saved

        def save(step: int) -> None:
            info = {
                "keys": {names[b]: self.key(b) for b in blocks},
                "stopped": {names[b]: reason for b, reason in stopped.items()},
            }
            extra = {f"loss {names[b]}": curve for b, curve in curves.items()}
            checkpoint.save(
                self.path, self.run_key, step, {names[b]: modules[b] for b in blocks}, optimizer, info, extra
            )

        network = assemble(self.teacher.unet, teacher_candidate(self.teacher.unet), copy=False)
        source = self.batches(start)
        for step in range(start, settings.steps):
            if len(stopped) == len(blocks):
                break
            record = self._teacher_pass(network, next(source))
            checkpoint.set_learning_rate(optimizer, step, settings.steps, settings.warm_up_steps)
            self._backward(record, modules, stopped, curves, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                save(step + 1)
            running = [c[step] for b, c in curves.items() if b not in stopped]
            mean = float(torch.stack(running).mean()) if running else float("nan")
            report(step + 1, f"{len(running)} blocks, mean relative loss {mean:.3f}")
        results = {b: self._finish(b, modules[b], curves[b], stopped.get(b)) for b in blocks}
        self.path.unlink(missing_ok=True)
        return results

    def _teacher_pass(self, network: nn.Module, batch: Batch) -> dict[str, StageIO]:
        record: dict[str, StageIO] = {}
        with torch.no_grad():
            noisy = add_noise(self.alphas, batch.latents, batch.noise, batch.timesteps)
            network(noisy, batch.timesteps, batch.context, record=record)
        return record

    def _backward(
        self,
        record: Mapping[str, StageIO],
        modules: Mapping[Block, nn.Module],
        stopped: dict[Block, str],
        curves: Mapping[Block, Tensor],
        step: int,
    ) -> None:
        for stage in dict.fromkeys(block[0] for block in modules):
            inputs, targets = teacher_targets(record, stage, stage_context(self.space, stage))
            variances = [t.var().clamp_min(1e-12) for t in targets]
            kwargs = upsampled_size(stage, inputs[0], targets[0])
            for block in (b for b in modules if b[0] == stage and b not in stopped):
                loss = relative_loss(modules[block](*inputs, **kwargs), targets, variances)
                curves[block][step] = value = loss.detach()
                if not torch.isfinite(value):
                    stopped[block] = f"loss is {float(value)} at step {step + 1}"
                    continue
                loss.backward()
                norm = nn.utils.clip_grad_norm_(modules[block].parameters(), self.settings.clip, foreach=True)
                if not torch.isfinite(norm):
                    stopped[block] = f"gradient norm is {float(norm)} at step {step + 1}"
                    modules[block].zero_grad(set_to_none=True)

    def _finish(self, block: Block, module: nn.Module, curve: Tensor, reason: str | None) -> BlockResult:
        first, last, losses, count = loss_summary(curve)
        result = BlockResult(
            stage=block[0],
            option=block[1],
            key=self.key(block),
            status="stopped" if reason else "trained",
            reason=reason,
            num_params=sum(p.numel() for p in module.parameters()),
            num_steps=count,
            first_loss=first,
            last_loss=last,
            losses=losses,
        )
        if reason is None:
            self.bank.put(result.key, module, result.model_dump(exclude={"key", "status"}))
        else:
            log.warning("%s %s is left out: %s; candidates with it fail", *block, reason)
        return result
