"""Analytic kernel sums of a space's parts: what a predictor knows of a candidate without timing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from search_spaces.costs import CostTable
    from search_spaces.space import Indices, SearchSpace


@dataclass(frozen=True)
class KernelTables:
    """Kernel sums of the base and of every stage option of a space of U-Nets; needs no torch.

    Attributes:
        kernel_names: (K,) names, as :func:`search_spaces.kernels.sums_of` makes them.
        base: (K,) of what is outside of the stages.
        stages: per stage (options, K), in the order of the space's options.
    """

    kernel_names: tuple[str, ...]
    base: NDArray[np.int64]
    stages: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, costs: CostTable) -> Self:
        """From a cost table; UserError for a space of pipelines, whose latency is no sum over parts."""
        if costs.space.is_pipeline:
            raise UserError(
                f"search space {costs.space.name!r} is one of pipelines; device profiles are calibrated for spaces of "
                "U-Nets such as nanosd"
            )
        return cls(costs.kernel_names, costs.base_kernels, dict(costs.stage_kernels))

    def check(self, space: SearchSpace) -> None:
        """Raise UserError unless these are the options of `space`."""
        own = {stage: len(table) for stage, table in self.stages.items()}
        needed = dict(zip(space.stages, space.stage_sizes, strict=True))
        if own != needed:
            raise UserError(f"kernel sums of {own} options; search space {space.name!r} has {needed}; give its own")
        assert all(table.shape[1] == len(self.kernel_names) for table in self.stages.values())

    def of_candidates(self, space: SearchSpace, matrix: Indices) -> NDArray[np.float64]:
        """Kernel sums (N, K) of candidates (N, decisions)."""
        rows = space.stage_rows(matrix)
        total = np.tile(self.base.astype(np.float64), (len(rows), 1))
        for column, stage in enumerate(space.stages):
            total += self.stages[stage][rows[:, column]]
        return total
