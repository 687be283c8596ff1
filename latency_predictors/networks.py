"""Whole networks of a space that were measured, as a fit reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latency_predictors.importers.records import ImportedMeasurement
from latency_predictors.measurement import Measurement
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError, shown
from search_spaces.space import Indices, SearchSpace


@dataclass(frozen=True)
class Networks:
    """Measured whole networks of a space: ids, index matrix (N, decisions), latencies (N,) in ms.

    noise_log_std: their own repeatability, the standard deviation of a median's logarithm; 0 where none is stated.
    """

    ids: tuple[str, ...]
    matrix: Indices
    latency_ms: NDArray[np.float64]
    noise_log_std: float

    @classmethod
    def of(
        cls, space: SearchSpace, timings: Mapping[str, Measurement | ImportedMeasurement], ids: Sequence[str]
    ) -> Self:
        matrix = np.empty((len(ids), len(space.sizes)), dtype=np.int64)
        for row, text in enumerate(ids):
            if text not in timings:
                raise UserError(f"held_out: network {shown(text)} was not measured; name networks that were")
            matrix[row] = space.encode(Candidate.from_id(text, space.stages))
        latency_ms = np.array([timings[text].latency_ms for text in ids], dtype=np.float64)
        # A 95 % interval is 1.96 standard deviations to either side; not every imported timing states one.
        halves = [timings[text].ci95_half_width_pct for text in ids]
        noise = [half / 196.0 for half in halves if half is not None]
        return cls(tuple(ids), matrix, latency_ms, float(np.median(noise)) if noise else 0.0)
