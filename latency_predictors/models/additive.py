"""A network's latency from the sum of its parts' latencies, each measured alone."""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from latency_predictors.models.base import (
    UNKNOWN_FACTOR,
    Array,
    FittedModel,
    Inputs,
    Prediction,
    Support,
    check_latency,
    interval,
)
from latency_predictors.models.fields import Finite, Positive, Positives
from search_spaces.errors import UserError

#: Squared log error that no curve's mean is taken to be below: one that fits exactly has all the weight.
_LEAST_SQUARE = 1e-12
#: Fewer networks fix a scale only: a line through two points of a noisy device may slope anyhow.
_LEAST_AFFINE = 3
#: Standard deviation of the log error that a fit to many networks is expected to have before its leave-one-out errors
#: are seen: a constant, and so much for every unit of the log sums' own standard deviation (networks that differ
#: fiftyfold are further from one line than those that differ threefold); and as how many networks' errors that counts.
#: One or two networks fix a scale alone, which is further off where the truth is a line. All chosen on twelve recorded
#: calibrations of sixty networks. `python -m experiments.bench.intervals` repeats that, and says how to record some: on
#: six of them, with all blocks and 1, 3 or 10 networks, 90 % intervals hold .93 in the mean and .83 at worst; with half
#: of the three standard deviations .88 and .61.
PRIOR_LOG_STD = 0.025
PRIOR_LOG_STD_PER_SPREAD = 0.02
PRIOR_LOG_STD_SCALE_ONLY = 0.05
PRIOR_COUNT = 2.0
PRIOR_COUNT_SCALE_ONLY = 3.0


class Additive(BaseModel):
    """A whole network's latency as an increasing function of the sum of its parts' latencies.

    The sum is the first column of ``Inputs.sources``. Two curves through the networks, averaged geometrically, each
    weighted by the inverse of its mean squared leave-one-out log error:

        intercept_ms + scale * sum, least squares in relative error
        factor * sum^exponent, least squares in log latency

    The intercept may be negative: a stage measured alone pays for a call, for cold instructions and for the change of
    layout at its edges; a whole network pays for them once. The power law bends where that share is not the same for
    small and large networks.

    power: whether the power law takes part.
    least_ms: smallest sum that will be asked for; a line that makes its latency zero or less, or the scale negative, is
        replaced by the one with non-negative coefficients. By default that of the measured networks.
    noise_log_std: repeatability of a network's latency, which no fit can be better than; widens the default prior.
    imputed_log_std: what the sums themselves are off in log latency since some of their parts were not measured but
        estimated (parts.Parts.imputed_log_std); widens the default prior.
    prior_log_std, prior_count: see :class:`FittedAdditive`; by default chosen by the networks' number, the first also
        by their spread.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    power: bool = True
    least_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    noise_log_std: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    imputed_log_std: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    prior_log_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    prior_count: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedAdditive:
        """Fits to the measured latencies (N,) in ms; UserError without sums, or when latencies do not grow with them.

        One or two networks fix the scale alone (geometric mean of the ratios), the intercept is 0.
        """
        measured = check_latency(latency_ms, len(inputs))
        sums = _sums(inputs)
        least_ms = float(sums.min()) if self.least_ms is None else self.least_ms
        intercept, scale = _line(sums, measured, least_ms)
        log_factor, exponent = _power_law(sums, measured)
        every = np.arange(len(measured))
        errors = np.zeros((2, len(every) if len(every) > 1 else 0))
        for left_out in range(errors.shape[1]):
            rest, at = every != left_out, sums[left_out]
            a, b = _line(sums[rest], measured[rest], least_ms)
            c, d = _power_law(sums[rest], measured[rest])
            errors[:, left_out] = np.array([np.log(a + b * at), c + d * np.log(at)]) - np.log(measured[left_out])
        weight = 0.0
        inner = errors[:, _are_inner(sums)] if errors.size else errors
        if self.power and exponent > 0 and inner.size:
            precisions = 1.0 / (np.mean(inner**2, axis=1) + _LEAST_SQUARE)
            weight = float(precisions[1] / precisions.sum())
        return FittedAdditive(
            intercept_ms=intercept,
            scale=scale,
            log_factor=log_factor,
            exponent=exponent,
            power_weight=weight,
            sums_ms=sums,
            prior_log_std=self._prior_log_std(sums),
            prior_count=self._prior_count(len(sums)),
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=(1.0 - weight) * errors[0] + weight * errors[1],
        )

    def unfitted(self, kernel_names: tuple[str, ...]) -> FittedAdditive:
        """The sum itself, for parts without any whole network; every network extrapolates."""
        nowhere = np.zeros(len(kernel_names))
        return FittedAdditive(
            intercept_ms=0.0,
            scale=1.0,
            log_factor=0.0,
            exponent=1.0,
            power_weight=0.0,
            sums_ms=np.zeros(0),
            prior_log_std=PRIOR_LOG_STD,
            prior_count=self._prior_count(0),
            kernel_names=kernel_names,
            num_sources=1,
            support=Support(low=nowhere, high=nowhere),
            loo_log_errors=np.zeros(0),
        )

    def _prior_count(self, num: int) -> float:
        if self.prior_count is not None:
            return self.prior_count
        return PRIOR_COUNT if num >= _LEAST_AFFINE else PRIOR_COUNT_SCALE_ONLY

    def _prior_log_std(self, sums: Array) -> float:
        if self.prior_log_std is not None:
            return self.prior_log_std
        num, is_line = len(sums), len(sums) >= _LEAST_AFFINE
        own = PRIOR_LOG_STD + PRIOR_LOG_STD_PER_SPREAD * float(np.std(np.log(sums)))
        variance = own**2 + self.noise_log_std**2 + self.imputed_log_std**2
        if not is_line:
            variance += PRIOR_LOG_STD_SCALE_ONLY**2
        # That of a network beside the curve, and that of a curve through so few: a scale through N, or a line, which
        # with its third point has one to tell it by.
        return float(np.sqrt(variance * (1.0 + (2.0 / (num - 2) if is_line else 1.0 / num))))


class FittedAdditive(FittedModel):
    """Both curves with the power law's weight, the sums that they were fitted on, and what the interval is made of.

    A network extrapolates when a kernel sum, or its sum of parts, leaves the measured range by over half its width.

    The log error of an unseen network has variance (prior_count * prior_log_std^2 + sum of squared leave-one-out log
    errors) / (prior_count + N), the scale of a scaled inverse chi-squared posterior; the interval is that of Student's
    t with prior_count + N degrees of freedom (Gelman et al., Bayesian Data Analysis, section 2.6). Only the N networks
    whose sum lies among the others' count: without the smallest or the largest, the line has to reach beyond
    its points, which it has not to for the networks that it will be asked for.
    """

    kind: Literal["additive"] = "additive"
    intercept_ms: Finite
    scale: Positive
    log_factor: Finite
    exponent: Finite
    power_weight: float = Field(ge=0, le=1)
    sums_ms: Positives
    prior_log_std: Positive
    prior_count: Positive

    @model_validator(mode="after")
    def _is_one_curve(self) -> Self:
        self._check_num_errors(len(self.sums_ms))
        if self.num_sources < 1:
            raise ValueError(f"num_sources is {self.num_sources}; an additive model reads the first, the sum of parts")
        if self.power_weight and self.exponent <= 0:
            raise ValueError(f"exponent is {self.exponent}; latency grows with the sum, so it is above 0")
        return self

    @property
    def num_measured(self) -> int:
        """Number of networks that it was fitted to."""
        return len(self.sums_ms)

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,) with one relative 90 % interval for all; `UNKNOWN_FACTOR` without any network."""
        self._check(inputs)
        sums = _sums(inputs)
        latency_ms = self.of_sums(sums)
        if not self.sums_ms:
            outside = np.ones(len(sums), dtype=bool)
        else:
            least_ms, largest_ms = min(self.sums_ms), max(self.sums_ms)
            margin = 0.5 * (largest_ms - least_ms)
            outside = self.support.is_outside(inputs) | (sums < least_ms - margin) | (sums > largest_ms + margin)
        if not self.sums_ms:
            return Prediction(latency_ms, latency_ms / UNKNOWN_FACTOR, latency_ms * UNKNOWN_FACTOR, outside)
        dof = self.prior_count + len(self._inner_errors)
        return interval(latency_ms, np.full(len(latency_ms), self.log_std), dof, outside)

    def of_sums(self, sums_ms: Array) -> Array:
        """Latency in ms (N,) of sums of parts (N,) in ms; it increases with the sum."""
        # No candidate of the space that was fitted for gets here below the smallest float; others may.
        line: Array = np.maximum(self.intercept_ms + self.scale * sums_ms, np.finfo(float).tiny)
        if not self.power_weight:
            return line
        log_power = self.log_factor + self.exponent * np.log(sums_ms)
        mixed: Array = np.exp((1.0 - self.power_weight) * np.log(line) + self.power_weight * log_power)
        return mixed

    def largest_sum_ms(self, limit_ms: float, low_ms: float, high_ms: float) -> float:
        """The largest sum from `low_ms` to `high_ms` whose latency is within the limit, to the last bit.

        `low_ms` where even that is above the limit; the caller looks at it.
        """
        while True:
            middle = 0.5 * (low_ms + high_ms)
            if not low_ms < middle < high_ms:
                return high_ms if self.of_sums(np.array([high_ms]))[0] <= limit_ms else low_ms
            if self.of_sums(np.array([middle]))[0] <= limit_ms:
                low_ms = middle
            else:
                high_ms = middle

    @property
    def log_std(self) -> float:
        """Standard deviation of an unseen network's log error."""
        errors = self._inner_errors
        squares = self.prior_count * self.prior_log_std**2 + float(np.sum(errors**2))
        return float(np.sqrt(squares / (self.prior_count + len(errors))))

    @property
    def _inner_errors(self) -> Array:
        if not self.loo_log_errors:
            return np.zeros(0)
        inner: Array = np.array(self.loo_log_errors)[_are_inner(np.array(self.sums_ms))]
        return inner


def _sums(inputs: Inputs) -> Array:
    if inputs.sources is None:
        raise UserError("sources: none given, but the additive model reads the sums of the parts' latencies there")
    return inputs.sources[:, 0]


def _are_inner(sums: Array) -> NDArray[np.bool_]:
    """Which sums (N,) lie among the others."""
    inner: NDArray[np.bool_] = (sums > sums.min()) & (sums < sums.max())
    return inner


def _power_law(sums: Array, measured: Array) -> tuple[float, float]:
    """(log factor, exponent) of the least squares in log latency; exponent 1 for fewer than three networks."""
    log_sums, log_ms = np.log(sums), np.log(measured)
    spread = log_sums - log_sums.mean()
    exponent = 1.0
    if len(measured) >= _LEAST_AFFINE and spread.any():
        exponent = float(spread @ log_ms / (spread @ spread))
    return float(log_ms.mean() - exponent * log_sums.mean()), exponent


def _line(sums: Array, measured: Array, least_ms: float) -> tuple[float, float]:
    """(intercept, scale) that minimise sum(((intercept + scale * sum) / measured - 1)^2)."""
    if len(measured) < _LEAST_AFFINE:
        return 0.0, float(np.exp(np.mean(np.log(measured / sums))))
    design = np.stack([1.0 / measured, sums / measured], axis=1)
    ones = np.ones(len(measured))
    intercept, scale = (float(w) for w in np.linalg.lstsq(design, ones, rcond=None)[0])
    if scale <= 0 or intercept + scale * min(least_ms, float(sums.min())) <= 0:
        from scipy.optimize import nnls

        intercept, scale = (float(w) for w in nnls(design, ones)[0])
        if scale <= 0:  # the sums say nothing: a constant would call every network equal
            raise UserError(
                "calibration: whole U-Nets' latencies do not grow with their stages'; the machine is too busy, "
                "calibrate again when it is quieter or with a larger max_seconds"
            )
    return intercept, scale
