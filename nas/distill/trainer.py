"""Trains surrogate blocks side by side: one teacher pass a step, one checkpoint file, held-out losses."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas.block_bank import BlockBank
from nas.distill import checkpoint
from nas.distill.execution import LossScale, autocast, inputs_for, prepare, to_device, torch_device
from nas.distill.features import loss_summary, relative_loss, stage_context, teacher_targets, upsampled_size
from nas.distill.results import BatchSource, Block, BlockResult
from nas.distill.settings import DistillSettings
from nas.sampling import add_noise, alphas_cumprod
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

# Batches that no training reaches: the same images under noise, timesteps and prompts of their own.
HELD_OUT_STEP = 2**31
HELD_OUT_BATCHES = 2

# A plateau: the mean over `plateau_steps` is not lower by this share than over as many steps before.
PLATEAU_GAIN = 0.01


def block_key(space: SearchSpace, block: Block, teacher_key: str, data_key: str, settings: DistillSettings) -> str:
    """The bank key of a surrogate of this space."""
    return BlockBank.key(*block, teacher_key, data_key, settings.recipe(), stage_context(space, block[0]))


class _State:
    """What the training of one block has besides its weights and moments; all of it is in checkpoints."""

    def __init__(self, module: nn.Module, settings: DistillSettings, device: torch.device) -> None:
        self.call = prepare(module.eval().requires_grad_(True), settings, device)
        self.module = module
        self.curve = torch.full((settings.steps,), torch.nan, dtype=torch.float64)
        self.stopped: str | None = None
        self.finished = False
        self.scale = LossScale.first(settings)
        self.start_loss: float | None = None
        self.ema = [p.detach().clone() for p in module.parameters()] if settings.ema is not None else []

    @property
    def running(self) -> bool:
        return self.stopped is None and not self.finished

    def info(self) -> dict[str, Any]:
        return {
            "stopped": self.stopped,
            "finished": self.finished,
            "scale": asdict(self.scale),
            "start_loss": self.start_loss,
        }

    def restore(self, info: Mapping[str, Any], curve: Tensor, ema: Sequence[Tensor]) -> None:
        self.stopped, self.finished = info["stopped"], info["finished"]
        self.scale, self.start_loss = LossScale(**info["scale"]), info["start_loss"]
        self.curve = curve.clone()  # not the file's mapped memory
        for own, saved in zip(self.ema, ema, strict=True):
            own.copy_(saved)


class BlockTrainer:
    """Trains groups of blocks side by side, with one checkpoint file in `work_dir`."""

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
        self.space, self.batches, self.settings, self.bank = space, batches, settings, bank
        self.teacher_key, self.data_key = teacher.key, data_key
        self.device = torch_device(settings.device)
        self.unet = teacher.unet
        if self.device != next(teacher.unet.parameters()).device:
            # A copy: the teacher is shared with phases that stay where they are.
            self.unet = copy.deepcopy(teacher.unet).to(self.device)
        self.own = teacher_candidate(self.unet)
        self.alphas = alphas_cumprod(teacher.scheduler.config).to(self.device)
        self.path = work_dir / "distill.safetensors"
        self.run_key = BlockBank.key("", "", teacher.key, data_key, settings.recipe())

    def key(self, block: Block) -> str:
        """The block's key in the bank."""
        return block_key(self.space, block, self.teacher_key, self.data_key, self.settings)

    def learning_rate(self, block: Block) -> float:
        """The teacher's own word, re-fitted to another input, is near its optimum and starts gently."""
        refit = block[1] == self.own.options[block[0]]
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
        """Train these blocks to the end, put them into the bank and remove the checkpoint."""
        settings = self.settings
        states = {b: _State(build_stage(self.unet, *b), settings, self.device) for b in blocks}
        optimizer = checkpoint.make_optimizer(
            ((states[b].module, self.learning_rate(b)) for b in blocks), settings.weight_decay
        )
        network = assemble(self.unet, self.own, copy=False)
        start = self._restore(states, optimizer)
        if start == 0:
            for block, loss in self._held_out(network, states).items():
                states[block].start_loss = loss if math.isfinite(loss) else None
        source = self.batches(start)
        for step in range(start, settings.steps):
            if not any(state.running for state in states.values()):
                break
            with autocast(settings, self.device):
                record = self._teacher_pass(network, next(source))
            checkpoint.set_learning_rate(optimizer, step, settings.steps, settings.warm_up_steps)
            self._backward(record, states, step)
            del record
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._after(states, step)
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                self._save(states, optimizer, step + 1)
            losses = [state.curve[step] for state in states.values() if state.running]
            mean = float(torch.stack(losses).mean()) if losses else float("nan")
            report(step + 1, f"{len(losses)} blocks, mean relative loss {mean:.3f}")
        del optimizer
        for state in states.values():
            for parameter, average in zip(state.module.parameters(), state.ema, strict=bool(state.ema)):
                parameter.data.copy_(average)
        end_losses = self._held_out(network, states)
        results = {b: self._finish(b, states[b], end_losses[b]) for b in blocks}
        self.path.unlink(missing_ok=True)
        return results

    def _restore(self, states: Mapping[Block, _State], optimizer: torch.optim.Optimizer) -> int:
        """Steps that the checkpoint holds for all these blocks, whose state is taken from it."""
        saved = checkpoint.load(self.path, self.run_key)
        if saved is None or any(saved.info["keys"].get(_name(b)) != self.key(b) for b in states):
            return 0
        if any(_name(b) not in saved.info.get("blocks", {}) for b in states):
            return 0  # of a version whose checkpoints held less
        for block, state in states.items():
            name = _name(block)
            saved.restore(name, state.module, optimizer)
            ema = [saved.tensors[f"ema {name} {i}"] for i in range(len(state.ema))]
            state.restore(saved.info["blocks"][name], saved.tensors[f"loss {name}"], ema)
        return saved.step

    def _save(self, states: Mapping[Block, _State], optimizer: torch.optim.Optimizer, step: int) -> None:
        info = {
            "keys": {_name(b): self.key(b) for b in states},
            "blocks": {_name(b): state.info() for b, state in states.items()},
        }
        extra = {f"loss {_name(b)}": state.curve for b, state in states.items()}
        for block, state in states.items():
            extra |= {f"ema {_name(block)} {i}": average for i, average in enumerate(state.ema)}
        modules = {_name(b): state.module for b, state in states.items()}
        checkpoint.save(self.path, self.run_key, step, modules, optimizer, info, extra)

    def _teacher_pass(self, network: nn.Module, batch: Batch) -> dict[str, StageIO]:
        record: dict[str, StageIO] = {}
        batch = to_device(batch, self.device)
        with torch.no_grad():
            noisy = add_noise(self.alphas, batch.latents, batch.noise, batch.timesteps)
            network(noisy, batch.timesteps, batch.context, record=record)
        return record

    def _targets(self, record: Mapping[str, StageIO], stage: str) -> tuple[list[Tensor], list[Tensor], dict[str, Any]]:
        inputs, targets = teacher_targets(record, stage, stage_context(self.space, stage))
        kwargs = upsampled_size(stage, inputs[0], targets[0])
        return inputs_for(inputs, self.settings, self.device), [t.float() for t in targets], kwargs

    def _backward(self, record: Mapping[str, StageIO], states: Mapping[Block, _State], step: int) -> None:
        """Gradients of every running block; each one's graph is freed before the next one's is made."""
        for stage in dict.fromkeys(block[0] for block, state in states.items() if state.running):
            inputs, targets, kwargs = self._targets(record, stage)
            variances = [t.var().clamp_min(1e-12) for t in targets]
            for state in (state for block, state in states.items() if block[0] == stage and state.running):
                with autocast(self.settings, self.device):
                    outputs = state.call(*inputs, **kwargs)
                loss = relative_loss([o.float() for o in outputs], targets, variances)
                del outputs
                state.curve[step] = value = loss.detach()
                if not torch.isfinite(value):
                    state.stopped = f"loss is {float(value)} at step {step + 1}"
                    continue
                (loss * state.scale.scale if state.scale.scale != 1.0 else loss).backward()
                del loss
                state.scale.unscale(state.module)
                norm = nn.utils.clip_grad_norm_(state.module.parameters(), self.settings.clip, foreach=True)
                if torch.isfinite(norm):
                    state.scale.succeeded()
                    continue
                state.module.zero_grad(set_to_none=True)
                if not state.scale.overflowed():
                    state.stopped = f"gradient norm is {float(norm)} at step {step + 1}"

    def _after(self, states: Mapping[Block, _State], step: int) -> None:
        """Averages of the weights, and blocks that have converged."""
        window = self.settings.plateau_steps
        for state in states.values():
            if not state.running:
                continue
            if self.settings.ema is not None:
                # Short memory first, so that the inherited weights do not linger.
                decay = min(self.settings.ema, (1 + step) / (10 + step))
                parameters = [p.detach() for p in state.module.parameters()]
                torch._foreach_lerp_(state.ema, parameters, 1 - decay)
            if window is not None and (step + 1) % window == 0 and step + 1 >= 2 * window:
                now, before = state.curve[step + 1 - window : step + 1], state.curve[step + 1 - 2 * window :][:window]
                state.finished = bool(now.mean() > (1 - PLATEAU_GAIN) * before.mean())

    def _held_out(self, network: nn.Module, states: Mapping[Block, _State]) -> dict[Block, float]:
        """Relative loss of every block on batches that none is trained on, in full precision."""
        totals = dict.fromkeys(states, 0.0)
        source = self.batches(HELD_OUT_STEP)
        for _ in range(HELD_OUT_BATCHES):
            record = self._teacher_pass(network, next(source))
            for stage in dict.fromkeys(block[0] for block in states):
                inputs, targets, kwargs = self._targets(record, stage)
                variances = [t.var().clamp_min(1e-12) for t in targets]
                for block in (b for b in states if b[0] == stage):
                    with torch.no_grad():
                        loss = relative_loss(states[block].module(*inputs, **kwargs), targets, variances)
                    totals[block] += float(loss) / HELD_OUT_BATCHES
        return totals

    def _finish(self, block: Block, state: _State, end_loss: float) -> BlockResult:
        first, last, losses, count = loss_summary(state.curve)
        module, start_loss, reason = state.module, state.start_loss, state.stopped
        finite = math.isfinite(end_loss)
        if reason is None and not finite:
            reason = f"held-out loss is {end_loss} after step {count}"
        worse = reason is None and start_loss is not None and end_loss > start_loss
        if worse:
            module = build_stage(self.unet, *block)
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
            start_loss=start_loss,
            end_loss=end_loss if finite else None,
            kept_inherited=worse,
        )
        if reason is None:
            self.bank.put(result.key, module, result.model_dump(exclude={"key", "status"}))
        else:
            log.warning("%s %s is left out: %s; candidates with it fail", *block, reason)
        return result


def _name(block: Block) -> str:
    return f"{block[0]}/{block[1]}"
