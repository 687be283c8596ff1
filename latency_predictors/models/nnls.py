"""Non-negative least squares in relative error: on kernel sums, on source devices, on both."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field

from latency_predictors.models.base import (
    Array,
    FittedModel,
    Inputs,
    Prediction,
    Support,
    Vector,
    check_latency,
    loo_interval,
)
from search_spaces.errors import UserError

Features = Literal["kernels", "sources", "kernels+sources", "macs"]


class Nnls(BaseModel):
    """latency_ms = sum of non-negative coefficients times features + constant, fitted in relative error.

    Minimises sum((prediction / measured - 1)^2) + ridge * sum((share - 1 / P)^2): `share` is what each of the P
    columns contributes to the median latency at its typical value `scale`. The ridge is so small that it only
    decides what the measurements leave open (more columns than measurements, a kernel that none of them has).

    features: "kernels" (analytic), "sources" and "kernels+sources" (transfer from other devices), "macs" (the sum of
        the kernels that end in `_macs`: the baseline that everybody knows).
    scale: typical size of each feature column, say its mean over all candidates; the mean of the measured
        networks by default, and a kernel that none of them has then costs nothing and extrapolates.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Features = "kernels"
    scale: Vector | None = None
    ridge: float = Field(default=1e-4, gt=0, allow_inf_nan=False)

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedNnls:
        """Fits to the measured latencies (N,) in ms; UserError when a needed kind of feature is not there."""
        measured = check_latency(latency_ms, len(inputs))
        columns = feature_columns(inputs, self.features)
        scale = columns.mean(0) if self.scale is None else np.array(self.scale)
        assert scale.shape == (columns.shape[1],)
        scale = np.append(scale, 1.0)
        design = np.column_stack([columns, np.ones(len(columns))]) / np.where(scale > 0, scale, np.inf)
        every = np.arange(len(measured))
        errors = [
            np.log(_positive(design[i] @ self._solve(design[every != i], measured[every != i])) / measured[i])
            for i in (every if len(measured) > 1 else [])
        ]
        return FittedNnls(
            features=self.features,
            coefficients=self._solve(design, measured) / np.where(scale > 0, scale, np.inf),
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=np.array(errors),
        )

    def _solve(self, design: Array, measured: Array) -> Array:
        from scipy.optimize import nnls

        unit, size = float(np.median(measured)), design.shape[1]
        root = np.sqrt(self.ridge)
        rows = np.vstack([design * (unit / measured)[:, None], root * np.eye(size)])
        shares: Array = nnls(rows, np.concatenate([np.ones(len(measured)), np.full(size, root / size)]))[0]
        return shares * unit


class FittedNnls(FittedModel):
    """Coefficients in ms per unit of each feature, the last one the constant in ms."""

    kind: Literal["nnls"] = "nnls"
    features: Features
    coefficients: Vector

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,); the interval's relative width is the leave-one-out error's, the same for all."""
        self._check(inputs)
        coefficients = np.array(self.coefficients)
        latency_ms = feature_columns(inputs, self.features) @ coefficients[:-1] + coefficients[-1]
        return loo_interval(_positive(latency_ms), self, self.support.is_outside(inputs))


def _positive(latency_ms: Array) -> Array:
    """A network without any kernel takes no time if the constant is 0; its logarithm must exist all the same."""
    return np.maximum(latency_ms, np.finfo(float).tiny)


def feature_columns(inputs: Inputs, features: Features) -> Array:
    """The named feature columns (N, P); UserError when the inputs do not have them."""
    if features == "macs":
        macs = [i for i, name in enumerate(inputs.kernel_names) if name.endswith("_macs")]
        if not macs:
            raise UserError(
                f"kernels: none of {', '.join(inputs.kernel_names)} ends in _macs; name those that count MACs"
            )
        return inputs.kernels[:, macs].sum(1, keepdims=True)
    if features == "kernels":
        return inputs.kernels
    if inputs.sources is None:
        raise UserError("sources: none given, but the model transfers from them; give some, or use features='kernels'")
    return inputs.sources if features == "sources" else np.column_stack([inputs.sources, inputs.kernels])
