"""Latency as a function of sums over stages, where it is one: exact ends and counts without looking at candidates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.budget_counts import count_within
from search_spaces.vae_option import STEPS

if TYPE_CHECKING:
    from latency_predictors.latency_table import LatencyTable
    from latency_predictors.models import FittedAdditive

Floats = NDArray[np.float64]
_NUM_PROBES = 32


@dataclass(frozen=True)
class LatencySum:
    """Latency of the candidates of one number of steps: base plus one of (options,) a stage, or what increases with it.

    Attributes:
        model: latency as an increasing function of the sum; None: the sum itself.
    """

    base_ms: float
    stages: tuple[Floats, ...]
    model: FittedAdditive | None = None

    @property
    def ends_ms(self) -> tuple[float, float]:
        """Least and largest latency in ms."""
        low, high = self._sum_ends
        if self.model is None:
            return low, high
        ends = self.model.of_sums(np.array([low, high]))
        return float(ends[0]), float(ends[1])

    def num_within(self, limit_ms: float) -> tuple[float, float]:
        """Certain bounds of the number of candidates within a latency."""
        if self.model is not None:
            if self.ends_ms[0] > limit_ms:
                return 0, 0
            limit_ms = self.model.largest_sum_ms(limit_ms, *self._sum_ends)
        return count_within(list(self.stages), limit_ms - self.base_ms)

    @property
    def _sum_ends(self) -> tuple[float, float]:
        low, high = (self.base_ms + sum(float(of(ms)) for ms in self.stages) for of in (np.min, np.max))
        return low, high


def latency_sums(latency: LatencyTable) -> tuple[LatencySum, ...]:
    """A space's latency as sums, one for each number of steps; empty where it is none.

    A device profile says it of itself. Of any other table it is seen on random candidates.
    """
    from latency_predictors.latency_table import DeviceTable

    space = latency.space
    if isinstance(latency, DeviceTable) and (own := latency.profile.sums_ms(space)) is not None:
        model, base, stages = own
        return (LatencySum(base, tuple(stages), model),)
    columns = [column for column, stage in enumerate(space.stages) if stage != STEPS]
    sizes = [space.stage_sizes[column] for column in columns]
    at = space.stages.index(STEPS) if space.is_pipeline else None
    rng = np.random.default_rng(0)
    found = []
    for steps in range(1 if at is None else space.stage_sizes[at]):
        # The first options of all stages, then every option of a stage with the first ones of the others, then probes.
        rows = np.zeros((1 + sum(sizes) + _NUM_PROBES, len(space.stages)), dtype=np.int64)
        ends = 1 + np.cumsum(sizes)
        for column, end, size in zip(columns, ends, sizes, strict=True):
            rows[end - size : end, column] = np.arange(size)
        rows[-_NUM_PROBES:, columns] = rng.integers(0, sizes, size=(_NUM_PROBES, len(sizes)))
        if at is not None:
            rows[:, at] = steps
        values = np.asarray(latency.latency_ms(space.from_stage_rows(rows)), dtype=np.float64)
        base = float(values[0])
        added = tuple(values[end - size : end] - base for end, size in zip(ends, sizes, strict=True))
        expected = base + sum(ms[rows[-_NUM_PROBES:, column]] for column, ms in zip(columns, added, strict=True))
        if not np.allclose(expected, values[-_NUM_PROBES:], rtol=1e-9, atol=0):
            return ()
        found.append(LatencySum(base, added))
    return tuple(found)
