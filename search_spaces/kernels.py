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
    **dict.fromkeys("add clamp cos div exp gelu mul relu sigmoid silu sin sub tanh".split(), Kind.ELEMENTWISE),  # noqa: SIM905
    **dict.fromkeys("_to_copy cat clone constant_pad_nd copy slice_scatter upsample_nearest2d".split(), Kind.COPY),  # noqa: SIM905
}


class Kernel(NamedTuple):
    """Class of an operator and its MACs (1 MAC = 2 FLOPs)."""

    name: str
    macs: int


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
        macs = output.numel() * int(left.shape[-1])
        return Kernel(Kind.LINEAR if has_weight else Kind.ATTENTION, macs)
    if name not in _KINDS:
        raise NotImplementedError(
            f"operator {operator} is in no table; add it to search_spaces/kernels.py with its class and MACs"
        )
    return Kernel(_KINDS[name], 0)


def _convolution(args: tuple[Any, ...], output: torch.Tensor) -> Kernel:
    weight, transposed, groups = args[1], args[6], args[8]
    if transposed or weight.ndim != 4 or groups not in (1, args[0].shape[1]):
        raise NotImplementedError(
            f"convolution with weight {tuple(weight.shape)}, groups {groups}, transposed {transposed} has no class; "
            "add one to search_spaces/kernels.py"
        )
    height, width = weight.shape[2:]
    macs = output.numel() * int(weight.shape[1:].numel())
    if groups > 1:
        return Kernel(Kind.DEPTHWISE, macs)
    return Kernel(Kind.POINTWISE if height == width == 1 else f"{Kind.CONV}{height}x{width}", macs)


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
