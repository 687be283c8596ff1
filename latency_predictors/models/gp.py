"""Gaussian process on log latency, averaged over the hyperparameter settings of its prior."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, model_validator

from latency_predictors.models.base import Array, FittedModel, Inputs, Prediction, Support, check_latency, interval
from latency_predictors.models.fields import (
    DigitMatrix,
    Finite,
    NonNegativeMatrix,
    NonNegatives,
    PositiveMatrix,
    Vector,
    check_length,
    check_weights,
    check_width,
)
from latency_predictors.models.prior import GpFeatures, LatencyPrior, combine, covariance
from search_spaces.errors import UserError

_LEAST_WEIGHT = 0.01
#: Rows predicted at a time: (5, rows, measured) covariance parts stay in the cache.
_CHUNK = 8192


class Gp(BaseModel):
    """The prior conditioned on measurements (Rasmussen and Williams 2006, algorithm 2.1).

    One measurement is enough: it fixes the device's speed. Every setting of the prior's variances counts by the
    marginal likelihood of the measurements under it; settings below 1 % are left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior: LatencyPrior

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedGp:
        """Conditions on the measured latencies (N,) in ms; UserError when the inputs are not the prior's."""
        from scipy.linalg import cho_solve, cholesky

        log_ms = np.log(check_latency(latency_ms, len(inputs)))
        features = self.prior.features(inputs)
        residual = log_ms - features.mean
        # The constant's variance is so wide that this shift changes nothing but rounding errors.
        shift = float(residual.mean())
        parts = features.parts(features)
        variances = np.array(self.prior.variances)
        likelihoods, loo_means, loo_variances = [], [], []
        for setting in variances:
            factor = cholesky(covariance(setting, parts), lower=True)
            inverse = cho_solve((factor, True), np.eye(len(residual)))
            alpha = inverse @ (residual - shift)
            likelihoods.append(-0.5 * (residual - shift) @ alpha - np.log(np.diag(factor)).sum())
            loo_variances.append(1.0 / np.diag(inverse))  # ibid., eq. 5.12
            loo_means.append(-alpha / np.diag(inverse))
        weights = np.exp(np.array(likelihoods) - np.max(likelihoods))
        weights /= weights.sum()
        kept = weights >= _LEAST_WEIGHT
        weights = weights[kept] / weights[kept].sum()
        errors, spread = mix(weights, np.array(loo_means)[kept], np.array(loo_variances)[kept])
        enough = len(log_ms) > 1
        return FittedGp(
            prior=LatencyPrior.model_validate(self.prior.model_dump() | {"variances": variances[kept]}),
            setting_weights=weights,
            shift=shift,
            residual=residual - shift,
            kernels=inputs.kernels,
            structure=inputs.structure,
            sources=inputs.sources,
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=errors if enough else np.zeros(0),
            loo_log_std=np.sqrt(spread) if enough else np.zeros(0),
        )


class FittedGp(FittedModel):
    """The measured networks with their log residuals against the prior mean, and the settings' weights.

    `loo_log_std`: standard deviation with which each measured network was predicted from the others.
    """

    kind: Literal["gp"] = "gp"
    prior: LatencyPrior
    setting_weights: NonNegatives
    shift: Finite
    residual: Vector
    kernels: NonNegativeMatrix
    structure: DigitMatrix | None
    sources: PositiveMatrix | None
    loo_log_std: NonNegatives

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        num = len(self.residual)
        if not num:
            raise ValueError("residual: no networks; needed is at least one")
        if (self.prior.kernel_names, self.prior.num_sources) != (self.kernel_names, self.num_sources):
            raise ValueError("prior.kernel_names, prior.source_log_ms: not those of kernel_names and num_sources")
        check_length("setting_weights", self.setting_weights, len(self.prior.variances), "one per row of variances")
        check_weights("setting_weights", self.setting_weights)
        self._check_num_errors(num)
        check_length("loo_log_std", self.loo_log_std, len(self.loo_log_errors), "one per number in loo_log_errors")
        if (self.sources is None) != (self.num_sources == 0):
            raise ValueError(f"sources: null for 0 source devices only; there are {self.num_sources}")
        every = {"kernels": self.kernels, "structure": self.structure, "sources": self.sources}
        widths = {"kernels": len(self.kernel_names), "sources": self.num_sources}
        for field, rows in every.items():
            if rows is not None:
                check_length(field, rows, num, "one row per number in residual")
                check_width(field, rows, widths.get(field, len(rows[0])), "as in the other rows")
        return self

    @property
    def num_measured(self) -> int:
        """Number of networks that it was fitted to."""
        return len(self.residual)

    @property
    def num_decisions(self) -> int | None:
        """Number of digits of a network's structure that it reads; None where it reads none."""
        return None if self.structure is None else len(self.structure[0])

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,), the posterior median, with 90 % intervals of a new measurement."""
        log_ms, variance = self.posterior(inputs)
        return interval(np.exp(log_ms), np.sqrt(variance), np.inf, self.support.is_outside(inputs))

    def posterior(self, inputs: Inputs) -> tuple[Array, Array]:
        """Mean and variance (N,) of the log latency in log ms that a measurement would show, noise included."""
        self._check(inputs)
        log_ms, variance = np.empty(len(inputs)), np.empty(len(inputs))
        for rows in _chunks(len(inputs)):
            features = self.prior.features(inputs.rows(rows))
            parts, diagonal = features.parts(self._measured), features.diagonal()
            means, variances = [], []
            for setting, (alpha, root) in zip(np.array(self.prior.variances), self._solutions, strict=True):
                cross = combine(setting, parts)
                means.append(cross @ alpha)
                half = cross @ root
                explained = np.einsum("ij,ij->i", half, half)
                variances.append(np.maximum(combine(setting, diagonal) - explained, 0.0) + setting[4])
            mean, variance[rows] = mix(np.array(self.setting_weights), np.array(means), np.array(variances))
            log_ms[rows] = mean + features.mean + self.shift
        return log_ms, variance

    @cached_property
    def _measured(self) -> GpFeatures:
        structure = None if self.structure is None else np.array(self.structure)
        sources = None if self.sources is None else np.array(self.sources)
        return self.prior.features(Inputs(np.array(self.kernels), self.kernel_names, structure, sources))

    @cached_property
    def _solutions(self) -> list[tuple[Array, Array]]:
        """Per setting K^-1 r (n,) and an R (n, n) with R R^T = K^-1."""
        from scipy.linalg import cho_solve, cholesky, solve_triangular

        parts, residual = self._measured.parts(self._measured), np.array(self.residual)
        found = []
        for setting in np.array(self.prior.variances):
            try:
                factor = cholesky(covariance(setting, parts), lower=True)
            except ValueError as error:  # no numbers, or not positive definite: numpy's LinAlgError is one
                raise UserError(f"gp model: its covariance has no root ({error}); calibrate again") from None
            root = solve_triangular(factor, np.eye(len(residual)), lower=True).T
            found.append((cho_solve((factor, True), residual), root))
        return found


def mix(weights: Array, means: Array, variances: Array) -> tuple[Array, Array]:
    """Mean and variance (N,) of a mixture of distributions with these means and variances (M, N)."""
    mean = weights @ means
    return mean, weights @ (variances + (means - mean) ** 2)


def _chunks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, num_rows, _CHUNK))
