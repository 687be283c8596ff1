"""Counting multiply-accumulate operations (MACs) operator by operator, on tensors without data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that move, reshape or transform elementwise, and reductions inside norms and softmax: no MACs
# by the field's convention. Whatever is in neither table raises: nothing unknown costs zero.
_FREE = frozenset(
    f"aten.{name}"
    for name in """
    _safe_softmax _softmax _to_copy _unsafe_view add arange cat clone copy_ cos detach div empty exp expand gelu
    lift_fresh mul native_group_norm native_layer_norm permute reshape select silu sin slice split squeeze sub t
    transpose unsqueeze upsample_nearest2d view
    """.split()  # noqa: SIM905
)


def _convolution(args: tuple[Any, ...], output: torch.Tensor) -> int:
    weight = args[1]
    return output.numel() * weight.shape[1] * weight.shape[2:].numel()


def _addmm(args: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * int(args[1].shape[-1])


def _matmul(args: tuple[Any, ...], output: torch.Tensor) -> int:
    return output.numel() * int(args[0].shape[-1])


def _attention(args: tuple[Any, ...], output: Any) -> int:
    query, key, value = args[:3]
    batch_heads = query.shape[:-2].numel()
    return int(batch_heads * query.shape[-2] * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


_COUNTED = {
    "aten.convolution": _convolution,
    "aten.addmm": _addmm,
    "aten.baddbmm": _addmm,
    "aten.mm": _matmul,
    "aten.bmm": _matmul,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_flash_attention": _attention,
}


class MacCounter(TorchDispatchMode):
    """Context that counts the MACs of everything run inside it.

    Convolutions, linear layers, matrix products and both products of attention (query-key and
    attention-value) count; 1 MAC = 2 FLOPs. Works on ``meta`` tensors, where nothing is computed.

    Attributes:
        num_macs: MACs so far.
        num_macs_by_operator: the same, by operator.

    Raises:
        NotImplementedError: on an operator that it does not know, naming it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_macs_by_operator: Counter[str] = Counter()

    @property
    def num_macs(self) -> int:
        return sum(self.num_macs_by_operator.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = str(func.overloadpacket)
        if name in _COUNTED:
            self.num_macs_by_operator[name] += int(_COUNTED[name](args, output))
        elif name not in _FREE:
            raise NotImplementedError(
                f"operator {name} is not in the counting tables; add it to search_spaces/counting.py with its MACs"
            )
        return output
