"""Single values of a run's files as what they must be: a NaN must never reach an axis."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """A finite float, or None for an absent or non-finite value."""
    if value is None:
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def needed(value: Any, name: str) -> float:
    """A finite float; ValueError, naming the field, for anything else."""
    found = number(value)
    if found is None:
        raise ValueError(f"{name} is {value}")
    return found


def whole(value: Any) -> int | None:
    """The nearest whole number, or None for an absent or non-finite value."""
    found = number(value)
    return None if found is None else round(found)


def text(value: Any) -> str | None:
    """Text that is not empty, or None."""
    return value if isinstance(value, str) and value else None
