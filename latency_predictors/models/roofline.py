"""With nothing but a spec sheet: every kernel at a stated rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from pydantic import model_validator

from latency_predictors.models.base import UNKNOWN_FACTOR, Array, FittedModel, Inputs, Prediction, Support
from latency_predictors.models.fields import NonNegatives, check_length
from search_spaces.errors import UserError


def kernel_cost_ms(kernel_names: tuple[str, ...], rates_per_ms: Mapping[str, float]) -> Array:
    """Cost (K,) in ms per unit of every kernel sum from rates in units per ms (MACs per ms, bytes per ms ...).

    UserError for a kernel without a rate (nothing unknown costs zero), a rate without a kernel, and a rate that
    is not positive; an infinite rate says that a kernel is free.
    """
    for name in kernel_names:
        if name not in rates_per_ms:
            raise UserError(f"rates_per_ms: none for kernel {name!r}; give one, or infinity if it costs nothing")
    for name, rate in rates_per_ms.items():
        if name not in kernel_names:
            raise UserError(f"rates_per_ms: {name!r} is no kernel; there are {', '.join(kernel_names)}")
        if not rate > 0:
            raise UserError(f"rates_per_ms: {name} is {rate}; rates are above 0")
    return np.array([1.0 / rates_per_ms[name] for name in kernel_names])


class FittedRoofline(FittedModel):
    """Every kernel at its rate, no overlap; every network extrapolates, since none was measured.

    As soon as one network is measured, give `kernel_cost_ms` to prior.unlearned_prior and fit.
    """

    kind: Literal["roofline"] = "roofline"
    kernel_cost_ms: NonNegatives

    @model_validator(mode="after")
    def _has_a_cost_per_kernel(self) -> Self:
        check_length("kernel_cost_ms", self.kernel_cost_ms, len(self.kernel_names), "one per kernel name")
        return self

    @property
    def num_measured(self) -> int:
        """None was measured."""
        return 0

    @classmethod
    def of(cls, kernel_names: tuple[str, ...], rates_per_ms: Mapping[str, float]) -> Self:
        """From rates in units per ms; UserError as kernel_cost_ms raises it."""
        nowhere = np.zeros(len(kernel_names))
        return cls(
            kernel_names=kernel_names,
            num_sources=0,
            support=Support(low=nowhere, high=nowhere),
            loo_log_errors=np.zeros(0),
            kernel_cost_ms=kernel_cost_ms(kernel_names, rates_per_ms),
        )

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency (N,) in ms as the sum of kernel sums over their rates; UserError for one that takes no time."""
        self._check(inputs)
        latency_ms = inputs.kernels @ np.array(self.kernel_cost_ms)
        if not (latency_ms > 0).all():
            row = int(np.argmin(latency_ms))
            raise UserError(
                f"rates_per_ms: network {row} takes {latency_ms[row]} ms; a kernel that it has needs a finite rate"
            )
        everything = np.ones(len(inputs), dtype=bool)
        return Prediction(latency_ms, latency_ms / UNKNOWN_FACTOR, latency_ms * UNKNOWN_FACTOR, everything)


def roofline(inputs: Inputs, rates_per_ms: Mapping[str, float]) -> Prediction:
    """The prediction of FittedRoofline, at once."""
    return FittedRoofline.of(inputs.kernel_names, rates_per_ms).predict(inputs)
