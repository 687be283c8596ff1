"""The parts of a space on one device: which were measured, and estimates for those that were not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from latency_predictors.importers.records import ImportedMeasurement
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.measurement import Measurement
from latency_predictors.models import Inputs, Nnls
from latency_predictors.profile_records import Part
from latency_predictors.subject_names import BASE, option_subject
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.space import Indices, SearchSpace, listed

Floats = NDArray[np.float64]
#: Standard deviation of an estimated part's log error before any is seen, and as how many parts' errors that counts.
_IMPUTED_LOG_STD, _IMPUTED_COUNT = 0.7, 4.0
#: How far networks are off by the scale of their estimated parts' errors: parts' errors average out, the more so the
#: fewer are estimated. Chosen on recorded calibrations with 4 to 30 of 37 blocks. On SD-shaped U-Nets intervals of 90 %
#: hold .84 to .87 by `python -m experiments.bench.intervals --networks 1 --blocks 4`, and .72 to .80 with half of
#: this share (`--scale network_share=0.5`).
_NETWORK_SHARE = 0.7


@dataclass(frozen=True)
class Parts:
    """The base and every stage option of a space.

    Attributes:
        kernel_names: (K,).
        base: what is in no stage.
        options: per stage its options, in the order of the space.
        estimate_log_std: standard deviation of an estimated part's log error; 0 where none was estimated from others.
    """

    kernel_names: tuple[str, ...]
    base: Part
    options: Mapping[str, Mapping[str, Part]]
    estimate_log_std: float = 0.0

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
        assert all(part.latency_ms is not None for part in self.all)
        smallest = [min(part.latency_ms or 0.0 for part in options.values()) for options in self.options.values()]
        return (self.base.latency_ms or 0.0) + sum(smallest)

    def sums(self, rows: Indices) -> Floats:
        """Sum of the parts' latencies in ms (N,) of option numbers (N, stages); every part must have one."""
        assert all(part.latency_ms is not None for part in self.all)
        return self._sum(rows, lambda part: part.latency_ms or 0.0)

    def imputed_log_std(self, rows: Indices) -> float:
        """What sums of parts of networks (N, stages) are off since some parts were estimated from others, in log.

        Grows with the square of the estimated parts' share of the latency.
        """
        if not self.estimate_log_std:
            return 0.0
        share = np.mean(self._sum(rows, lambda p: 0.0 if p.timing else p.latency_ms or 0.0) / self.sums(rows))
        return float(_NETWORK_SHARE * share**2 * self.estimate_log_std)

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
        coefficients, errors = np.array(fitted.coefficients), np.array(fitted.loo_log_errors)
        squares = _IMPUTED_COUNT * _IMPUTED_LOG_STD**2 + float(errors @ errors)
        return replace(
            self.estimated(coefficients[:-1], float(coefficients[-1])),
            estimate_log_std=float(np.sqrt(squares / (_IMPUTED_COUNT + len(errors)))),
        )

    def _sum(self, rows: Indices, value: Callable[[Part], float]) -> Floats:
        total = np.full(len(rows), value(self.base))
        for column, options in enumerate(self.options.values()):
            total += np.array([value(part) for part in options.values()])[rows[:, column]]
        return total
