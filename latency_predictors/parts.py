"""The parts of a space on one device: which were measured, and estimates for those that were not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latency_predictors.importers.records import ImportedMeasurement
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.measurement import Measurement
from latency_predictors.models import Inputs, Nnls
from latency_predictors.profile import Part
from latency_predictors.subject_names import BASE, option_subject
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.space import Indices, SearchSpace, listed

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Parts:
    """The base and every stage option of a space.

    Attributes:
        kernel_names: (K,).
        base: what is in no stage.
        options: per stage its options, in the order of the space.
    """

    kernel_names: tuple[str, ...]
    base: Part
    options: Mapping[str, Mapping[str, Part]]

    @classmethod
    def of(
        cls, space: SearchSpace, kernels: KernelTables, timings: Mapping[str, Measurement | ImportedMeasurement]
    ) -> Self:
        """From timings by subject; UserError for a subject that the space does not have."""
        subjects = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s] if o != NONE)]
        for name in timings:
            if name not in subjects:
                raise UserError(
                    f"timing of {name!r}: no part of search space {space.name!r}; parts are {listed(subjects)}"
                )

        def part(subject: str, sums: NDArray[np.int64], is_none: bool = False) -> Part:
            return Part(
                kernels=tuple(int(n) for n in sums),
                timing=timings.get(subject),
                estimated_ms=0.0 if is_none else None,
            )

        options = {
            stage: {
                option: part(option_subject(stage, option), kernels.stages[stage][row], option == NONE)
                for row, option in enumerate(space.options[stage])
            }
            for stage in space.stages
        }
        return cls(kernels.kernel_names, part(BASE, kernels.base), options)

    @property
    def all(self) -> list[Part]:
        """The base, then the options stage by stage."""
        return [self.base, *(part for options in self.options.values() for part in options.values())]

    @property
    def num_measured(self) -> int:
        """Parts with a timing."""
        return sum(part.timing is not None for part in self.all)

    @property
    def num_runnable(self) -> int:
        """Parts that run something: all but ``none``."""
        return sum(part.timing is not None or part.estimated_ms != 0 for part in self.all)

    @property
    def least_ms(self) -> float:
        """Smallest sum of any candidate in ms; every part must have a latency."""
        base, tables = self._latency_ms()
        return base + sum(float(table.min()) for table in tables)

    def sums(self, rows: Indices) -> Floats:
        """Sum of the parts' latencies in ms (N,) of option numbers (N, stages); every part must have one."""
        base, tables = self._latency_ms()
        return base + np.sum([table[rows[:, column]] for column, table in enumerate(tables)], axis=0)

    def estimated(self, kernel_cost_ms: Floats, constant_ms: float = 0.0) -> Parts:
        """With an estimate for every part that was not measured: its kernel sums at these costs, and a constant."""

        def with_estimate(part: Part) -> Part:
            if part.timing is not None or part.estimated_ms == 0:
                return part
            return part.model_copy(
                update={"estimated_ms": constant_ms + float(np.array(part.kernels, np.float64) @ kernel_cost_ms)}
            )

        options = {s: {o: with_estimate(p) for o, p in parts.items()} for s, parts in self.options.items()}
        return replace(self, base=with_estimate(self.base), options=options)

    def imputed(self) -> Parts:
        """With an estimate for every part that was not measured, from those that were: NNLS on kernel sums."""
        measured = [part for part in self.all if part.timing is not None]
        if len(measured) == self.num_runnable:
            return self
        sums = np.array([part.kernels for part in self.all], np.float64)
        inputs = Inputs(np.array([part.kernels for part in measured], np.float64), self.kernel_names)
        fitted = Nnls(features="places", scale=sums.mean(0)).fit(
            inputs, [part.timing.latency_ms for part in measured if part.timing]
        )
        coefficients = np.array(fitted.coefficients)
        return self.estimated(coefficients[:-1], float(coefficients[-1]))

    def _latency_ms(self) -> tuple[float, list[Floats]]:
        assert all(part.latency_ms is not None for part in self.all)
        tables = [np.array([p.latency_ms for p in options.values()], np.float64) for options in self.options.values()]
        return float(self.base.latency_ms or 0.0), tables
