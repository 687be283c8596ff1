"""Costs of a whole network by brute force: second implementations.

MACs are closed forms of modules (the package's, of operators). Peak and traffic follow the package's conventions
(unfused attention; views, and factors of one, are no operators) with a second bookkeeping: activations are found by
the operators' schemas (the package goes by storage), and one network is swept operator by operator (the package
adds up tables).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Activity(TorchDispatchMode):
    """Every operator with the activations that it reads and writes; activations by number, views by their base's."""

    tensors: list[Tensor] = field(default_factory=list)
    base: list[int] = field(default_factory=list)
    operators: list[tuple[list[Tensor], list[Tensor]]] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def add(self, tensor: Tensor, base: int | None = None) -> None:
        self.numbers[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)  # kept, so that its id stays its own
        self.base.append(len(self.base) if base is None else base)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        reads = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and id(t) in self.numbers]
        if not reads:
            return output
        (*results,) = (t for t in tree_leaves(output) if isinstance(t, Tensor))
        if "norm" in func.__name__:
            del results[1:]  # the statistics are for the backward pass
        same = func.__name__ in ("div.Tensor", "mul.Tensor") and isinstance(args[1], (int, float)) and args[1] == 1
        is_view = "view" in func.__name__ or any(a.alias_info is not None for a in func._schema.arguments)
        for result in results:
            self.add(result, self.base[self.numbers[id(reads[0])]] if is_view or same else None)
        if not (is_view or same):
            self.operators.append((reads, results))
        return output

    def of(self, tensor: Tensor) -> int:
        return self.base[self.numbers[id(tensor)]]


def activity(function: Callable[[], Any], inputs: tuple[Tensor, ...]) -> tuple[int, int]:
    """Peak elements of live activations, and elements read and written, of one run of a network."""
    log = Activity()
    for tensor in inputs:
        log.add(tensor)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), log:
        result = function()
    kept = {log.of(t) for t in (*inputs, *(t for t in tree_leaves(result) if isinstance(t, Tensor)))}
    last_read = {log.of(t): at for at, (reads, _) in enumerate(log.operators) for t in reads}
    traffic = peak = 0
    live = {log.of(t) for t in inputs}
    for at, (reads, results) in enumerate(log.operators):
        traffic += sum(t.numel() for t in (*reads, *results))
        live |= {log.of(t) for t in results}
        peak = max(peak, sum(log.tensors[number].numel() for number in live))
        live = {number for number in live if number in kept or last_read.get(number, -1) > at}
    return peak, traffic


@contextmanager
def closed_form_macs(model: nn.Module) -> Iterator[Counter[str]]:
    """MACs of convolutions, linear layers and both products of attention in what the model runs inside.

    From modules' sizes and outputs' shapes, by class; of convolutions also by height of the output.
    """
    counts: Counter[str] = Counter()

    def conv(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        height, width = module.kernel_size
        name = "pointwise" if height == width == 1 else f"conv{height}x{width}" if module.groups == 1 else "depthwise"
        macs = output.numel() * height * width * module.in_channels // module.groups
        counts[f"{name}_macs@{output.shape[2]}"] += macs

    def linear(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        counts["linear"] += output.numel() * module.in_features

    def attention(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        queries = given.numel() // given.shape[1 if given.ndim == 4 else -1]
        text = kwargs.get("encoder_hidden_states")
        keys = queries // given.shape[0] if text is None else text.shape[1]
        counts["attention"] += 2 * queries * keys * module.to_q.out_features

    counted = {nn.Conv2d: conv, nn.Linear: linear, Attention: attention}
    handles = [
        module.register_forward_hook(hook, with_kwargs=True)
        for module in model.modules()
        for kind, hook in counted.items()
        if isinstance(module, kind)
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()
