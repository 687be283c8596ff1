"""NAS-Bench-201 (Dong and Yang, ICLR 2020): a cell of six edges, fifteen times, at 32x32 pixels."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from latency_predictors.models.base import Array, Digits
from search_spaces.errors import UserError

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NUM_OPTIONS = len(OPERATORS)
_EDGE = rf"({'|'.join(OPERATORS)})"
_CELL = re.compile(rf"\|{_EDGE}~0\|\+\|{_EDGE}~0\|{_EDGE}~1\|\+\|{_EDGE}~0\|{_EDGE}~1\|{_EDGE}~2\|")
#: Cells, channels and pixels of the three stages.
_STAGES = ((5, 16, 32), (5, 32, 16), (5, 64, 8))

#: A skip is free. `none` is not: the networks multiply by zero there, as in the benchmark's code.
KERNEL_NAMES = ("conv3x3_macs", "conv1x1_macs", "pooled_elements", "zeroed_elements")


def read(texts: Sequence[str]) -> Digits:
    """Structure (N, 6), operators of the edges in the string's order; UserError, naming the file line."""
    rows = []
    for line, text in enumerate(texts, start=2):
        match = _CELL.fullmatch(text)
        if match is None:
            raise UserError(
                f"line {line}: arch is {text!r}; legal is |a~0|+|b~0|c~1|+|d~0|e~1|f~2| of {', '.join(OPERATORS)}"
            )
        rows.append([OPERATORS.index(operator) for operator in match.groups()])
    return np.array(rows, dtype=np.int64)


def kernels(structure: Digits) -> Array:
    """Kernel sums (N, 4) of the networks, one image."""
    counts = {operator: (structure == digit).sum(1) for digit, operator in enumerate(OPERATORS)}
    conv_macs = sum(cells * channels**2 * size**2 for cells, channels, size in _STAGES)
    elements = sum(cells * channels * size**2 for cells, channels, size in _STAGES)
    columns = (
        9 * conv_macs * counts["nor_conv_3x3"],
        conv_macs * counts["nor_conv_1x1"],
        elements * counts["avg_pool_3x3"],
        elements * counts["none"],
    )
    return np.column_stack(columns).astype(np.float64)
