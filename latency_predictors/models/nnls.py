"""Non-negative least squares in relative error: on kernel sums, on source devices, on both."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, model_validator

from latency_predictors.models.base import (
    Array,
    FittedModel,
    Inputs,
    Prediction,
    Support,
    check_latency,
    loo_interval,
    num_groups,
)
from latency_predictors.models.fields import NonNegatives, Vector, check_length
from latency_predictors.models.population import Population
from search_spaces.errors import UserError

Features = Literal["kernels", "places", "sources", "kernels+sources", "macs"]

_HUBER, _REWEIGHTINGS = 1.5, 3


class Nnls(BaseModel):
    """latency_ms = sum of non-negative coefficients times features + constant, fitted in relative error.

    Minimises sum((prediction / measured - 1)^2) + ridge * sum((share - 1 / P)^2): `share` is what each of the P
    columns contributes to the median latency at its typical value `scale`. The ridge is so small that it only
    decides what the measurements leave open (more columns than measurements, a kernel that none of them has).

    features: "kernels" (analytic), "places" (the same, each place of a kernel apart, see base.Inputs), "sources" and
        "kernels+sources" (transfer from other devices), "macs" (the sum of the kernels that end in `_macs`: the
        baseline that everybody knows).
    scale: typical size of each feature column, say its mean over all candidates; the mean of the measured
        networks by default, and a kernel that none of them has then costs nothing and extrapolates.
    population: what is known of the shares beforehand, in place of the ridge.
    robust: Huber's loss instead of the square beyond 1.5 robust standard deviations, so that one measurement of a
        device that was busy, or of a corrupt file, counts little (Huber 1964; iteratively reweighted).
    least_share: no share is below this fraction of what is expected of it beforehand, 1 / P or the population's mean.
        Every kernel costs something on every device, but where one kernel dominates, ten networks that all have it are
        fitted best by it alone, and a network without it would take no time. Chosen on six recorded calibrations and a
        busy one: with 4 blocks and 10 networks, 3 % makes every draw of `python -m experiments.bench.intervals
        --networks 10 --blocks 4` usable (67 of 70 without) at a smaller mean error; 10 % costs accuracy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Features = "kernels"
    scale: Vector | None = None
    ridge: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    population: Population | None = None
    robust: bool = False
    least_share: float = Field(default=0.03, ge=0, lt=1, allow_inf_nan=False)

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedNnls:
        """Fits to the measured latencies (N,) in ms; UserError when a needed kind of feature is not there."""
        measured = check_latency(latency_ms, len(inputs))
        columns = feature_columns(inputs, self.features)
        scale = columns.mean(0) if self.scale is None else np.array(self.scale)
        assert scale.shape == (columns.shape[1],)
        design, sizes = _design(columns, scale)
        every = np.arange(len(measured))
        errors = [
            np.log(_positive(design[i] @ self._solve(design[every != i], measured[every != i])) / measured[i])
            for i in (every if len(measured) > 1 else [])
        ]
        return FittedNnls(
            features=self.features,
            coefficients=self._solve(design, measured) / sizes,
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=np.array(errors),
        )

    def _solve(self, design: Array, measured: Array) -> Array:
        unit = float(np.median(measured))
        relative = design * (unit / measured)[:, None]
        weights = np.ones(len(measured))
        if self.robust:
            # From what is known beforehand, at this device's speed: least squares starts out bent by the outlier.
            size = relative.shape[1]
            expected = relative @ (np.full(size, 1 / size) if self.population is None else self.population.mean)
            weights = _huber(expected / np.median(expected) - 1.0)
            for _ in range(_REWEIGHTINGS):
                weights = _huber(relative @ self._shares(relative, weights) - 1.0)
        return unit * self._shares(relative, weights)

    def _shares(self, relative: Array, weights: Array) -> Array:
        if self.population is not None:
            return self.population.solve(relative, weights, self.least_share)
        return _ridge(relative, self.ridge, weights, self.least_share)


class FittedNnls(FittedModel):
    """Coefficients in ms per unit of each feature, the last one the constant in ms."""

    kind: Literal["nnls"] = "nnls"
    features: Features
    coefficients: NonNegatives

    @model_validator(mode="after")
    def _has_a_coefficient_per_column(self) -> Self:
        groups, sources = num_groups(self.kernel_names), self.num_sources
        if not sources and "sources" in self.features:
            raise ValueError(f"features is {self.features!r}, but num_sources is 0")
        if self.features == "macs" and not any(name.partition("@")[0].endswith("_macs") for name in self.kernel_names):
            raise ValueError("features is 'macs', but no kernel name ends in _macs")
        columns = {"macs": 1, "places": len(self.kernel_names), "kernels": groups, "sources": sources}
        num = columns.get(self.features, groups + sources) + 1
        check_length("coefficients", self.coefficients, num, "one per feature column, and the constant")
        return self

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,); the interval's relative width is the leave-one-out error's, the same for all."""
        self._check(inputs)
        coefficients = np.array(self.coefficients)
        latency_ms = feature_columns(inputs, self.features) @ coefficients[:-1] + coefficients[-1]
        return loo_interval(_positive(latency_ms), self, self.support.is_outside(inputs))


def shares_of(columns: Array, scale: Array, latency_ms: Array, ridge: float = 1e-4) -> Array:
    """What each feature column at its typical value `scale` adds to the median latency, constant last: (P + 1,)."""
    relative = _design(columns, scale)[0] * (np.median(latency_ms) / latency_ms)[:, None]
    return _ridge(relative, ridge, np.ones(len(relative)))


def _design(columns: Array, scale: Array) -> tuple[Array, Array]:
    """(columns and a constant relative to their typical values (N, P + 1), those values, infinite for 0)."""
    sizes = np.append(np.where(scale > 0, scale, np.inf), 1.0)
    return np.column_stack([columns, np.ones(len(columns))]) / sizes, sizes


def _huber(errors: Array) -> Array:
    """Factors (N,) of the errors whose squares then make Huber's loss."""
    limit = _HUBER * (1.4826 * float(np.median(np.abs(errors))) + 1e-4)
    return np.sqrt(np.minimum(1.0, limit / np.maximum(np.abs(errors), limit)))


def _ridge(relative: Array, ridge: float, weights: Array, least_share: float = 0.0) -> Array:
    from scipy.optimize import nnls

    size, root = relative.shape[1], np.sqrt(ridge)
    least = np.full(size, least_share / size)
    rows = np.vstack([relative * weights[:, None], root * np.eye(size)])
    aims = np.concatenate([weights, np.full(size, root / size)])
    shares: Array = least + nnls(rows, aims - rows @ least)[0]
    return shares


def _positive(latency_ms: Array) -> Array:
    """A network without any kernel takes no time if the constant is 0; its logarithm must exist all the same."""
    return np.maximum(latency_ms, np.finfo(float).tiny)


def feature_columns(inputs: Inputs, features: Features) -> Array:
    """The named feature columns (N, P); UserError when the inputs do not have them."""
    if features == "macs":
        names, sums = inputs.groups
        macs = [i for i, name in enumerate(names) if name.endswith("_macs")]
        if not macs:
            raise UserError(
                f"kernels: none of {', '.join(inputs.kernel_names)} ends in _macs; name those that count MACs"
            )
        return sums[:, macs].sum(1, keepdims=True)
    if features == "places":
        return inputs.kernels
    if features == "kernels":
        return inputs.groups[1]
    if inputs.sources is None:
        raise UserError("sources: none given, but the model transfers from them; give some, or use features='kernels'")
    return inputs.sources if features == "sources" else np.column_stack([inputs.sources, inputs.groups[1]])
