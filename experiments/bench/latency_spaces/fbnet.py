"""FBNet's search space (Wu et al., CVPR 2019) at 32x32 pixels, as HELP's latency table has it.

22 layers, each one of nine: inverted residual blocks (1x1 convolution, depthwise k x k, 1x1 convolution) of kernel 3 or
5, expansion 1, 3 or 6, with groups of 2 and a channel shuffle in two of them; or a skip, which is a strided 1x1
convolution where the shape changes. What all networks share (stem, head) is left to a model's constant.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latency_predictors.models.base import Array, Digits
from search_spaces.errors import UserError

#: (kernel size, expansion, groups) of digits 0 to 7; digit 8 is the skip.
_BLOCKS = ((3, 1, 1), (3, 1, 2), (3, 3, 1), (3, 6, 1), (5, 1, 1), (5, 1, 2), (5, 3, 1), (5, 6, 1))
NUM_OPTIONS = len(_BLOCKS) + 1
_CHANNELS = (16, *(24,) * 4, *(32,) * 4, *(64,) * 4, *(112,) * 4, *(184,) * 4, 352)
NUM_LAYERS = len(_CHANNELS)
#: First layers of the third, fourth and sixth group.
_STRIDED = (5, 9, 17)
_STEM_CHANNELS, _IMAGE_SIZE = 16, 32

_KERNELS = (
    "pointwise_macs",
    "depthwise_macs",
    "activation_elements",
    "weight_elements",
    "convolutions",
    "shuffles",
)
_SIZES = (32, 16, 8, 4)
#: At each size of what a layer reads: accelerators fill their units, and CPUs their caches, differently at each.
KERNEL_NAMES = tuple(f"{kernel}@{size}" for kernel in _KERNELS for size in _SIZES)


def read(texts: Sequence[str]) -> Digits:
    """Structure (N, 22) of N operator strings; UserError, naming the file line, for one that is none."""
    for line, text in enumerate(texts, start=2):
        if len(text) != NUM_LAYERS or not set(text) <= set("012345678"):
            raise UserError(f"line {line}: ops is {text!r}; legal are {NUM_LAYERS} digits 0 to {NUM_OPTIONS - 1}")
    return np.array([[int(digit) for digit in text] for text in texts], dtype=np.int64)


def kernels(structure: Digits) -> Array:
    """Kernel sums (N, 24) of the networks, one image."""
    return _TABLE[np.arange(NUM_LAYERS), structure].sum(axis=1)


def _layer(digit: int, c_in: int, c_out: int, size: int, stride: int) -> tuple[float, ...]:
    """Kernel sums of one layer that reads (c_in, size, size)."""
    before, after = size**2, (size // stride) ** 2
    if digit == len(_BLOCKS):
        if c_in == c_out and stride == 1:
            return (0.0,) * len(_KERNELS)
        return (c_in * c_out * after, 0, c_in * before + c_out * after, c_in * c_out, 1, 0)
    kernel, expansion, groups = _BLOCKS[digit]
    middle = c_in * expansion
    return (
        (c_in * middle * before + middle * c_out * after) / groups,
        middle * kernel**2 * after,
        # What each of the three convolutions reads and writes.
        (c_in + middle) * before + middle * (before + after) + (middle + c_out) * after,
        (c_in * middle + middle * c_out) / groups + middle * kernel**2,
        3,
        1 if groups > 1 else 0,
    )


def _table() -> Array:
    rows, c_in, size = [], _STEM_CHANNELS, _IMAGE_SIZE
    for layer, c_out in enumerate(_CHANNELS):
        stride = 2 if layer in _STRIDED else 1
        sums = np.zeros((NUM_OPTIONS, len(_KERNELS), len(_SIZES)))
        sums[:, :, _SIZES.index(size)] = [_layer(digit, c_in, c_out, size, stride) for digit in range(NUM_OPTIONS)]
        rows.append(sums.reshape(NUM_OPTIONS, -1))
        c_in, size = c_out, size // stride
    return np.array(rows, dtype=np.float64)


_TABLE = _table()
