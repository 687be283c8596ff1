"""Ridge regression of log latency on one-hot digits: the lookup-table baseline, and a model of source devices."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from latency_predictors.models.base import (
    Array,
    Digits,
    FittedModel,
    Inputs,
    Prediction,
    Support,
    check_latency,
    loo_interval,
)
from latency_predictors.models.fields import Finite, Vector
from search_spaces.errors import UserError


class OneHotRidge(BaseModel):
    """log latency = intercept + one weight per (decision, digit), ridge-penalised around the mean.

    num_options: digits of a decision are 0 .. num_options - 1.
    pairs: also one weight per pair of digits of two decisions. For hundreds of measurements, as source devices have;
        D (D - 1) / 2 * num_options^2 columns.
    ridge: penalties to choose from by generalised cross-validation (Golub, Heath and Wahba 1979).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_options: int = Field(gt=0)
    pairs: bool = False
    ridge: tuple[float, ...] = (1.0,)

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedOneHot:
        """Fits to the measured latencies (N,) in ms; UserError where there is no structure or a digit is too large."""
        log_ms = np.log(check_latency(latency_ms, len(inputs)))
        columns = _one_hot(inputs, self.num_options, self.pairs)
        centre, mean = columns.mean(0), log_ms.mean()
        u, s, vt = np.linalg.svd(columns - centre, full_matrices=False)
        projected = u.T @ (log_ms - mean)
        scores, kept = [], []
        for ridge in self.ridge:
            shrink = s**2 / (s**2 + ridge)
            residual = log_ms - mean - u @ (shrink * projected)
            free = np.maximum(1.0 - 1.0 / len(log_ms) - (u**2) @ shrink, 1e-9)
            scores.append(np.mean(residual**2) / np.mean(free) ** 2)
            kept.append((ridge, -residual / free))
        ridge, errors = kept[int(np.argmin(scores))]
        weights = vt.T @ (s / (s**2 + ridge) * projected)
        return FittedOneHot(
            num_options=self.num_options,
            pairs=self.pairs,
            weights=weights,
            intercept=float(mean - centre @ weights),
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=errors if len(log_ms) > 1 else np.zeros(0),
        )


class FittedOneHot(FittedModel):
    """One weight in log ms per one-hot column, and the intercept."""

    kind: Literal["onehot"] = "onehot"
    num_options: PositiveInt
    pairs: bool
    weights: Vector
    intercept: Finite

    @model_validator(mode="after")
    def _has_whole_decisions(self) -> Self:
        if self.num_decisions is None:
            raise ValueError(f"weights: {len(self.weights)} values fit no number of decisions")
        return self

    @property
    def num_decisions(self) -> int | None:
        """Number of digits of a network's structure that it reads."""
        for num in range(1, len(self.weights) // self.num_options + 1):
            size = num * self.num_options
            if self.pairs:
                size += num * (num - 1) // 2 * self.num_options**2
            if size == len(self.weights):
                return num
        return None

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,) with one relative interval for all."""
        self._check(inputs)
        latency_ms = np.exp(_one_hot(inputs, self.num_options, self.pairs) @ np.array(self.weights) + self.intercept)
        return loo_interval(latency_ms, self, self.support.is_outside(inputs))


def _one_hot(inputs: Inputs, num_options: int, pairs: bool) -> Array:
    """One-hot columns (N, D * num_options), with `pairs` followed by those of every two decisions."""
    if inputs.structure is None:
        raise UserError("structure: none given, but the one-hot model reads nothing else; give the networks' digits")
    digits: Digits = inputs.structure
    if digits.min() < 0 or digits.max() >= num_options:
        raise UserError(f"structure: digits {digits.min()} to {digits.max()}; legal are 0 to {num_options - 1}")
    columns = [_indicator(digits, num_options)]
    if pairs:
        first, second = np.triu_indices(digits.shape[1], 1)
        columns.append(_indicator(digits[:, first] * num_options + digits[:, second], num_options**2))
    return np.concatenate(columns, axis=1)


def _indicator(digits: Digits, num_options: int) -> Array:
    shape = (len(digits), digits.shape[1] * num_options)
    return (digits[:, :, None] == np.arange(num_options)).reshape(shape).astype(np.float64)
