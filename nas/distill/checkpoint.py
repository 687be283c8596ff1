"""Checkpoints of a training: parameters, AdamW moments, step and losses in one safetensors file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas.atomic import read_tensors, stream_tensors


def make_optimizer(rates: Iterable[tuple[nn.Module, float]], weight_decay: float) -> torch.optim.AdamW:
    """One AdamW over all trainable parameters of modules with their peak learning rates.

    One for all, because a fused step over hundreds of small tensors costs a third of separate ones.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for module, rate in rates:
        groups.setdefault(rate, []).extend(p for p in module.parameters() if p.requires_grad)
    options = [{"params": parameters, "lr": rate, "peak": rate} for rate, parameters in groups.items()]
    return torch.optim.AdamW(options, weight_decay=weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, steps: int, warm_up: int) -> None:
    """Linear warm-up, then cosine to zero; a function of the step alone, so it needs no saved state."""
    factor = min(1.0, (step + 1) / (warm_up + 1)) * 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def module_digest(modules: Iterable[nn.Module]) -> str:
    """sha256 (16 hex digits) over names, shapes and values of all weights; order of the modules counts."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint; `info` is the JSON that `save` was given."""

    step: int
    info: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def restore(self, name: str, module: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Put the weights of `name` into `module` and its moments into `optimizer`, bit for bit."""
        with torch.no_grad():
            for parameter_name, parameter in module.named_parameters():
                prefix = f"{name}|{parameter_name}|"
                parameter.copy_(self.tensors[prefix + "value"])
                if optimizer is not None and prefix + "step" in self.tensors:
                    optimizer.state[parameter] = {
                        part: self.tensors[prefix + part].to(parameter.device, copy=True)
                        for part in ("step", "exp_avg", "exp_avg_sq")
                    }


def save(
    path: Path,
    key: str,
    step: int,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer | None,
    info: Mapping[str, Any],
    extra: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint atomically; without `optimizer` only the weights (a finished training).

    Args:
        key: digest of everything that decides the training; `load` refuses another one.
        info: JSON-able; NaN is not.
        extra: further tensors, kept under their names.
    """
    tensors = dict(extra or {})
    for name, module in modules.items():
        for parameter_name, parameter in module.named_parameters():
            prefix = f"{name}|{parameter_name}|"
            tensors[prefix + "value"] = parameter.detach()
            for part, value in (optimizer.state.get(parameter, {}) if optimizer is not None else {}).items():
                tensors[prefix + part] = value
    header = {"key": key, "step": str(step), "info": json.dumps(dict(info), allow_nan=False)}
    stream_tensors(Path(path), tensors, header)


def load(path: Path, key: str) -> Checkpoint | None:
    """The checkpoint at `path`, or None where there is none for `key`.

    A damaged file is moved to `*.corrupt` with one warning: a checkpoint only saves time.
    """
    found = read_tensors(path, key)
    if found is None:
        return None
    header, tensors = found
    return Checkpoint(int(header["step"]), json.loads(header["info"]), tensors)
