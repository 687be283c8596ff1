"""What each operator of a network computes: its class, its MACs, and the names of the sums made of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

import torch


class Kind(StrEnum):
    """Class of an operator that costs something; full convolutions are named by their size, as in ``conv3x3``."""

    CONV = "conv"
    POINTWISE = "pointwise"
    DEPTHWISE = "depthwise"
    GROUPED = "grouped"
    TRANSPOSED = "transposed"
    LINEAR = "linear"
    ATTENTION = "attention"
    SOFTMAX = "softmax"
    GROUP_NORM = "group_norm"
    LAYER_NORM = "layer_norm"
    ELEMENTWISE = "elementwise"
    COPY = "copy"


TRAFFIC = "traffic_elements"
"""Name of the sum of all activation elements that operators read and write."""

_KINDS = {
    "_safe_softmax": Kind.SOFTMAX,
    "_softmax": Kind.SOFTMAX,
    "native_group_norm": Kind.GROUP_NORM,
    "native_layer_norm": Kind.LAYER_NORM,
    **dict.fromkeys(
        """
        _adaptive_avg_pool2d abs add argmax avg_pool2d bitwise_and bitwise_not bitwise_or clamp cos cumsum div eq exp
        ge gelu gt hardswish hardtanh le leaky_relu linalg_vector_norm log lt masked_fill max_pool2d_with_indices
        maximum mean minimum mul ne neg pow relu rsqrt rsub sigmoid silu sin sqrt sub sum tanh upsample_bicubic2d
        upsample_bilinear2d where
        """.split(),  # noqa: SIM905
        Kind.ELEMENTWISE,
    ),
    **dict.fromkeys(
        """
        _to_copy cat clone constant_pad_nd copy embedding fill index index_select roll scatter slice_scatter stack
        upsample_nearest2d
        """.split(),  # noqa: SIM905
        Kind.COPY,
    ),
}


class Kernel(NamedTuple):
    """Class of an operator, its MACs (1 MAC = 2 FLOPs) and, where it has any, what they are made of.

    Matrix units work on blocks of ``num_contracted`` x ``num_produced``, so that these two decide what a block that
    is not full wastes.
    """

    name: str
    macs: int
    num_contracted: int = 0
    """Inputs of one product sum: input channels x kernel area, or the inner size of a matrix product."""
    num_produced: int = 0
    """Output channels (of one group), or columns of a matrix product."""


def kernel_of(operator: str, args: tuple[Any, ...], output: torch.Tensor, has_weight: bool) -> Kernel:
    """Class and MACs of one aten operator.

    Args:
        operator: its name without overload, such as ``aten.convolution``.
        args: its positional arguments.
        output: its first result.
        has_weight: whether one of two multiplied matrices is a parameter: tells a linear layer from a product of
            attention.

    Raises:
        NotImplementedError: an operator that is in no table: nothing unknown costs zero.
    """
    name = operator.removeprefix("aten.").rstrip("_")
    if name == "convolution":
        return _convolution(args, output)
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        left = args[1] if name in ("addmm", "baddbmm") else args[0]
        inner = int(left.shape[-1])
        kind = Kind.LINEAR if has_weight else Kind.ATTENTION
        return Kernel(kind, output.numel() * inner, inner, int(output.shape[-1]))
    if name not in _KINDS:
        raise NotImplementedError(
            f"operator {operator} is in no table; add it to search_spaces/kernels.py with its class and MACs"
        )
    return Kernel(_KINDS[name], 0)


def _convolution(args: tuple[Any, ...], output: torch.Tensor) -> Kernel:
    weight, transposed, groups = args[1], args[6], args[8]
    if weight.ndim not in (3, 4, 5) or (transposed and groups != 1):
        raise NotImplementedError(
            f"convolution with weight {tuple(weight.shape)}, groups {groups}, transposed {transposed} has no class; "
            "add one to search_spaces/kernels.py"
        )
    size = weight.shape[2:]
    inner = int(weight.shape[1:].numel())
    if transposed:  # weights (inputs, outputs, ...): every input is multiplied with all of them
        inner = int(weight.shape[0])
        return Kernel(Kind.TRANSPOSED, args[0].numel() * int(weight.shape[1:].numel()), inner, int(weight.shape[1]))
    shape = (output.numel() * inner, inner, int(weight.shape[0]) // groups)
    if groups == 1:
        pointwise = all(length == 1 for length in size)
        return Kernel(Kind.POINTWISE if pointwise else f"{Kind.CONV}{'x'.join(map(str, size))}", *shape)
    return Kernel(Kind.DEPTHWISE if groups == args[0].shape[1] else Kind.GROUPED, *shape)


def sums_of(kernel: Kernel, height: int, num_outputs: int, traffic: int) -> dict[str, int]:
    """What one operator adds to the sums that latency predictors use.

    Args:
        height: of the feature map it works on; 0 for the time embedding and the text, which have none.
        num_outputs: elements that it writes.
        traffic: activation elements that it reads and writes.

    Returns:
        ``num_<class>``, ``traffic_elements``, and ``<class>_macs@<height>`` or ``<class>_elements``.
    """
    sums = {f"num_{kernel.name}": 1, TRAFFIC: traffic}
    if kernel.macs:
        sums[f"{kernel.name}_macs@{height}"] = kernel.macs
    elif kernel.name != Kind.COPY:  # what a copy moves is traffic and nothing else
        sums[f"{kernel.name}_elements"] = num_outputs
    return sums
