"""How a block's forward and backward are computed: precision, memory layout, compilation, recomputation.

None of it changes what is learned but by rounding; `docs/distilling.md` states by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.data import Batch
    from nas.distill.settings import DistillSettings

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_FIRST_SCALE = 2.0**16
_GROWTH_STEPS = 2000


def torch_device(name: str) -> torch.device:
    """The device `cpu`, `cuda`, `cuda:1` ..., or the best there is for `auto`.

    Raises:
        UserError: no such device in this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise UserError(
            f"distill.device: {name!r} cannot be used in this machine; legal are auto, cpu, and cuda where torch "
            "sees a GPU"
        ) from None
    return device


def autocast(settings: DistillSettings, device: torch.device) -> AbstractContextManager[Any]:
    """Mixed precision as `settings.precision` says; weights, moments and losses stay float32."""
    if settings.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[settings.precision])


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, copied while the host goes on."""
    return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))


def prepare(module: nn.Module, settings: DistillSettings, device: torch.device) -> Callable[..., tuple[Tensor, ...]]:
    """Move a trainable block to its device, in place, and return what to call for its outputs."""
    module.to(device)
    if settings.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.checkpointing:
        for layer in _layers(module):
            # On the instance: the block's structure and the names of its weights stay as they are.
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    if not settings.compile:
        return module
    # Every block is a recompilation of the same few `forward`s; beyond the limit (8) they would not be compiled.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 1024)
    # Static shapes: with the second block's, inductor would try symbolic ones, and fails at that (torch 2.13).
    return torch.compile(module, dynamic=False)


def inputs_for(inputs: list[Tensor], settings: DistillSettings, device: torch.device) -> list[Tensor]:
    """A block's inputs in the layout that is fast there.

    On CPUs they stay contiguous: torch 2.13 crashes in GroupNorm's backward for a channels_last input
    that needs no gradient.
    """
    if not settings.channels_last or device.type == "cpu":
        return inputs
    return [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in inputs]


def _layers(module: nn.Module) -> Iterator[Any]:
    """The residual and transformer blocks below `module`, outermost first; none lies in another."""
    for child in module.children():
        if type(child).__name__ in ("ResnetBlock2D", "Transformer2DModel") or not any(True for _ in child.children()):
            if any(True for _ in child.children()):
                yield child
        else:
            yield from _layers(child)


@dataclass
class LossScale:
    """Dynamic loss scale of one block for float16 (Micikevicius et al. 2018, section 3.2).

    Its state is two numbers, so that a checkpoint can hold it.
    """

    scale: float = 1.0
    good_steps: int = 0

    @classmethod
    def first(cls, settings: DistillSettings) -> LossScale:
        """The scale to start with: 1 where nothing can underflow."""
        return cls(_FIRST_SCALE if settings.precision == "float16" else 1.0)

    def unscale(self, module: nn.Module) -> None:
        """Divide a block's gradients by the scale."""
        if self.scale != 1.0:
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            torch._foreach_div_(grads, self.scale)

    def overflowed(self) -> bool:
        """Halve the scale; whether there is any room below, so that the step is merely left out."""
        if self.scale <= 1.0:
            return False
        self.scale, self.good_steps = self.scale / 2, 0
        return True

    def succeeded(self) -> None:
        """Count a step with finite gradients; after many the scale is doubled."""
        if self.scale == 1.0:
            return
        self.good_steps += 1
        if self.good_steps == _GROWTH_STEPS:
            self.scale, self.good_steps = 2 * self.scale, 0
