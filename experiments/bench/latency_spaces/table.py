"""Public latency tables: one row per network, one column of milliseconds per device; corrupt values set aside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.latency_spaces import LatencySpace
from latency_predictors.models.base import Array, Digits
from search_spaces.errors import UserError

_CORRUPT_FACTOR = 20.0


@dataclass(frozen=True)
class Table:
    """A latency table: structure (N, D), latencies (N, devices) in ms with NaN where corrupt, and what was dropped."""

    space: LatencySpace
    devices: tuple[str, ...]
    structure: Digits
    latency_ms: Array
    dropped: dict[str, dict[str, Any]]

    @property
    def usable_devices(self) -> list[str]:
        """Devices with at least one latency in the pool."""
        pool = np.isfinite(self.latency_ms[: self.space.num_pool])
        return [device for column, device in enumerate(self.devices) if pool[:, column].any()]

    def column(self, device: str) -> Array:
        """Latencies (N,) of this device."""
        if device not in self.devices:
            raise UserError(f"device {device!r}: not in the table; there are {', '.join(self.devices)}")
        return self.latency_ms[:, self.devices.index(device)]


def read_table(path: Path, space: LatencySpace) -> Table:
    """Reads the pool's and the test's rows; UserError for a file that is no such table."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype={space.column: str})
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}; give a CSV table of latencies") from None
    if space.column not in frame:
        raise UserError(f"{path}: no column {space.column!r}; give the table of this --space")
    needed = space.num_pool + space.num_test
    if len(frame) < needed:
        raise UserError(f"{path}: {len(frame)} rows; the protocol needs {needed}")
    frame = frame.iloc[:needed]
    structure = space.read([str(text) for text in frame[space.column]])
    devices = tuple(name for name in frame.columns if name != space.column)
    values = np.column_stack([pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float) for name in devices])
    dropped = {}
    for column, device in enumerate(devices):
        values[:, column], note = _clean(values[:, column])
        if note:
            dropped[device] = note
    return Table(space, devices, structure, values, dropped)


def _clean(latency_ms: Array) -> tuple[Array, dict[str, Any] | None]:
    """The column (N,) with NaN for what cannot be a latency, and a note of how many and why."""
    is_latency = np.isfinite(latency_ms) & (latency_ms > 0)
    if not is_latency.any():
        return np.full(len(latency_ms), np.nan), {
            "num_rows": len(latency_ms),
            "why": "no positive number in the column",
        }
    median = float(np.median(latency_ms[is_latency]))
    low, high = median / _CORRUPT_FACTOR, median * _CORRUPT_FACTOR
    kept = is_latency & (latency_ms >= low) & (latency_ms <= high)
    if kept.all():
        return latency_ms, None
    why = {
        "not a positive number": int((~is_latency).sum()),
        f"below {low:.3g} ms, a twentieth of the median": int((is_latency & (latency_ms < low)).sum()),
        f"above {high:.3g} ms, twenty times the median": int((is_latency & (latency_ms > high)).sum()),
    }
    note = {"num_rows": int((~kept).sum()), "why": {reason: num for reason, num in why.items() if num}}
    return np.where(kept, latency_ms, np.nan), note
