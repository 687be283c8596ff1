"""A network's latency from the sum of its parts' latencies, each measured alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field

from latency_predictors.models.base import (
    UNKNOWN_FACTOR,
    Array,
    FittedModel,
    Inputs,
    Prediction,
    Support,
    Vector,
    check_latency,
    interval,
)
from search_spaces.errors import UserError

#: Fewer networks fix a scale only: a line through two points of a noisy device may slope anyhow.
_LEAST_AFFINE = 3
#: Standard deviation of the log error that a fit is expected to have before its leave-one-out errors are seen: a
#: constant, and so much for every unit of the log sums' own standard deviation (networks that differ fiftyfold are
#: further from one line than those that differ threefold); and as how many networks' errors that counts. Chosen on
#: recorded calibrations of ten networks and fifty unseen ones; see docs/architecture.md.
PRIOR_LOG_STD = 0.04
PRIOR_LOG_STD_PER_SPREAD = 0.015
PRIOR_COUNT = 10.0


class Additive(BaseModel):
    """latency_ms = intercept_ms + scale * (sum of the parts' latencies), fitted in relative error.

    The sum is the first column of ``Inputs.sources``. The intercept may be negative: a stage measured alone pays for a
    call, for cold instructions and for the change of layout at its edges; a whole network pays for them once.

    least_ms: smallest sum that will be asked for; a fit that makes its latency zero or less, or the scale negative, is
        replaced by the one with non-negative coefficients. By default that of the measured networks.
    prior_log_std, prior_count: see :class:`FittedAdditive`; the first is chosen by the networks' spread by default.

    On the toy teacher's U-Nets (median / worst error of unseen ones, mean of 100 draws of 8 fitted): free intercept
    0.9 / 2.9 %, non-negative 4.3 / 28 %, non-negative after subtracting the measured time of an empty graph from
    every part 1.9 / 11.5 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    prior_log_std: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    prior_count: float = Field(default=PRIOR_COUNT, gt=0, allow_inf_nan=False)

    def fit(self, inputs: Inputs, latency_ms: ArrayLike) -> FittedAdditive:
        """Fits to the measured latencies (N,) in ms; UserError without sums, or when latencies do not grow with them.

        One or two networks fix the scale alone (geometric mean of the ratios), the intercept is 0.
        """
        measured = check_latency(latency_ms, len(inputs))
        sums = _sums(inputs)
        least_ms = float(sums.min()) if self.least_ms is None else self.least_ms
        intercept, scale = _solve(sums, measured, least_ms)
        every = np.arange(len(measured))
        errors = []
        for left_out in every if len(every) > 1 else []:
            rest = every != left_out
            a, b = _solve(sums[rest], measured[rest], least_ms)
            errors.append(float(np.log((a + b * sums[left_out]) / measured[left_out])))
        return FittedAdditive(
            intercept_ms=intercept,
            scale=scale,
            sums_ms=sums,
            prior_log_std=self._prior_log_std(sums),
            prior_count=self.prior_count,
            kernel_names=inputs.kernel_names,
            num_sources=inputs.num_sources,
            support=Support.of(inputs),
            loo_log_errors=np.array(errors),
        )

    def unfitted(self, kernel_names: tuple[str, ...]) -> FittedAdditive:
        """The sum itself, for parts without any whole network; every network extrapolates."""
        nowhere = np.zeros(len(kernel_names))
        return FittedAdditive(
            intercept_ms=0.0,
            scale=1.0,
            sums_ms=np.zeros(0),
            prior_log_std=PRIOR_LOG_STD,
            prior_count=self.prior_count,
            kernel_names=kernel_names,
            num_sources=1,
            support=Support(low=nowhere, high=nowhere),
            loo_log_errors=np.zeros(0),
        )

    def _prior_log_std(self, sums: Array) -> float:
        if self.prior_log_std is not None:
            return self.prior_log_std
        return PRIOR_LOG_STD + PRIOR_LOG_STD_PER_SPREAD * float(np.std(np.log(sums)))


class FittedAdditive(FittedModel):
    """The line, the sums that it was fitted on, and what its interval is made of.

    A network extrapolates when a kernel sum, or its sum of parts, leaves the measured range by over half its width.

    The log error of an unseen network has variance (prior_count * prior_log_std^2 + sum of squared leave-one-out log
    errors) / (prior_count + N), the scale of a scaled inverse chi-squared posterior; the interval is that of Student's
    t with prior_count + N degrees of freedom (Gelman et al., Bayesian Data Analysis, section 2.6). Only the N networks
    whose sum lies among the others' count: without the smallest or the largest, the line has to reach beyond
    its points, which it has not to for the networks that it will be asked for.
    """

    kind: Literal["additive"] = "additive"
    intercept_ms: float = Field(allow_inf_nan=False)
    scale: float = Field(gt=0, allow_inf_nan=False)
    sums_ms: Vector
    prior_log_std: float = Field(gt=0, allow_inf_nan=False)
    prior_count: float = Field(gt=0, allow_inf_nan=False)

    def predict(self, inputs: Inputs) -> Prediction:
        """Latency in ms (N,) with one relative 90 % interval for all."""
        self._check(inputs)
        # No candidate of the space that was fitted for gets here below the smallest float; others may.
        sums = _sums(inputs)
        latency_ms = np.maximum(self.intercept_ms + self.scale * sums, np.finfo(float).tiny)
        if not self.sums_ms:
            outside = np.ones(len(sums), dtype=bool)
        else:
            least_ms, largest_ms = min(self.sums_ms), max(self.sums_ms)
            margin = 0.5 * (largest_ms - least_ms)
            outside = self.support.is_outside(inputs) | (sums < least_ms - margin) | (sums > largest_ms + margin)
        if not self.loo_log_errors:
            return Prediction(latency_ms, latency_ms / UNKNOWN_FACTOR, latency_ms * UNKNOWN_FACTOR, outside)
        dof = self.prior_count + len(self._inner_errors)
        return interval(latency_ms, np.full(len(latency_ms), self.log_std), dof, outside)

    @property
    def log_std(self) -> float:
        """Standard deviation of an unseen network's log error."""
        errors = self._inner_errors
        squares = self.prior_count * self.prior_log_std**2 + float(np.sum(errors**2))
        return float(np.sqrt(squares / (self.prior_count + len(errors))))

    @property
    def _inner_errors(self) -> Array:
        sums = np.array(self.sums_ms)
        inner: Array = np.array(self.loo_log_errors)[(sums > sums.min()) & (sums < sums.max())]
        return inner


def _sums(inputs: Inputs) -> Array:
    if inputs.sources is None:
        raise UserError("sources: none given, but the additive model reads the sums of the parts' latencies there")
    return inputs.sources[:, 0]


def _solve(sums: Array, measured: Array, least_ms: float) -> tuple[float, float]:
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
