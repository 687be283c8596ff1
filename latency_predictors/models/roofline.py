"""With nothing but a spec sheet: every kernel at a stated rate."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latency_predictors.models.base import UNKNOWN_FACTOR, Array, Inputs, Prediction
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


def roofline(inputs: Inputs, rates_per_ms: Mapping[str, float]) -> Prediction:
    """Latency (N,) in ms as the sum of kernel sums over their rates, no overlap; every network extrapolates.

    As soon as one network is measured, give `kernel_cost_ms` to prior.unlearned_prior and fit.
    """
    latency_ms = inputs.kernels @ kernel_cost_ms(inputs.kernel_names, rates_per_ms)
    if not (latency_ms > 0).all():
        row = int(np.argmin(latency_ms))
        raise UserError(
            f"rates_per_ms: network {row} takes {latency_ms[row]} ms; a kernel that it has needs a finite rate"
        )
    everything = np.ones(len(inputs), dtype=bool)
    return Prediction(latency_ms, latency_ms / UNKNOWN_FACTOR, latency_ms * UNKNOWN_FACTOR, everything)
