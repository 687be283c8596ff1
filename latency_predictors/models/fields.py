"""Fields of fitted models, as their JSON may hold them: finite, of the right sign, lengths tied to one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field


def _as_lists(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


#: No number of a model is near it; its square is still a number.
_LARGEST = 1e100
Finite = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=_LARGEST, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
Digit = Annotated[int, Field(ge=0, lt=2**31)]
Vector = Annotated[tuple[Finite, ...], BeforeValidator(_as_lists)]
NonNegatives = Annotated[tuple[NonNegative, ...], BeforeValidator(_as_lists)]
Positives = Annotated[tuple[Positive, ...], BeforeValidator(_as_lists)]
Matrix = Annotated[tuple[tuple[Finite, ...], ...], BeforeValidator(_as_lists)]
NonNegativeMatrix = Annotated[tuple[tuple[NonNegative, ...], ...], BeforeValidator(_as_lists)]
PositiveMatrix = Annotated[tuple[tuple[Positive, ...], ...], BeforeValidator(_as_lists)]
DigitMatrix = Annotated[tuple[tuple[Digit, ...], ...], BeforeValidator(_as_lists)]


def check_length(field: str, values: Sequence[object], num: int, why: str) -> None:
    """ValueError, naming the field, unless it has `num` values."""
    if len(values) != num:
        raise ValueError(f"{field}: {len(values)} values; needed are {num}, {why}")


def check_width(field: str, rows: Sequence[Sequence[object]], num: int, why: str) -> None:
    """ValueError, naming the row, unless each row has `num` values."""
    for number, row in enumerate(rows):
        check_length(f"{field}.{number}", row, num, why)


def check_weights(field: str, weights: Sequence[float]) -> None:
    """ValueError unless weights add up to one."""
    if abs(sum(weights) - 1.0) > 1e-6:
        raise ValueError(f"{field}: their sum is {sum(weights):.6g}; needed is 1")
