"""How good a predictor is: the figures of its errors, its ranking and its intervals."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from latency_predictors.models.base import FittedModel, Prediction

_Percent = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Judgement(BaseModel):
    """Errors over whole networks; shares and coverage from 0 to 1.

    Attributes:
        how: "unseen": on networks that no fit saw; "leave_one_out": each fitted network against the fit of the others.
            The interval's width was then set by these very errors, so its coverage says less.
        num: networks.
        median_error_pct, p90_error_pct: of the absolute error, in per cent of the measurement.
        within10: share of networks within 10 %.
        spearman, kendall: rank correlations; None for fewer than two networks or all alike.
        coverage90: share of networks within their 90 % interval; None where there is no interval.
        median_interval_pct: 90 % interval of the median error over all networks like these; None: too few of them, or a
            profile from before this was told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    how: Literal["unseen", "leave_one_out"]
    num: PositiveInt
    median_error_pct: float = Field(ge=0, allow_inf_nan=False)
    p90_error_pct: float = Field(ge=0, allow_inf_nan=False)
    within10: float = Field(ge=0, le=1)
    spearman: float | None = Field(ge=-1, le=1)
    kendall: float | None = Field(ge=-1, le=1)
    coverage90: float | None = Field(ge=0, le=1)
    median_interval_pct: tuple[_Percent, _Percent] | None = None

    @classmethod
    def unseen(cls, measured_ms: ArrayLike, prediction: Prediction) -> Self:
        """Of predictions (N,) against the measurements (N,) in ms of networks that were not fitted."""
        measured = np.asarray(measured_ms, dtype=np.float64)
        return cls._of("unseen", measured, prediction.latency_ms, is_covered(measured, prediction))

    @classmethod
    def leave_one_out(cls, measured_ms: ArrayLike, model: FittedModel, prediction: Prediction) -> Self | None:
        """Of the fitted networks (N,) and their own prediction (N,), for the widths of intervals; None for one."""
        errors = np.array(model.loo_log_errors)
        if not len(errors):
            return None
        measured = np.asarray(measured_ms, dtype=np.float64)
        covered = np.abs(errors) <= np.log(prediction.high_ms / prediction.latency_ms)
        return cls._of("leave_one_out", measured, measured * np.exp(errors), covered)

    @classmethod
    def _of(
        cls, how: Literal["unseen", "leave_one_out"], measured: np.ndarray, predicted: np.ndarray, covered: np.ndarray
    ) -> Self:
        errors = 100.0 * np.abs(predicted / measured - 1.0)
        spearman, kendall = rank_correlations(measured, predicted)
        return cls(
            how=how,
            num=len(measured),
            median_error_pct=float(np.median(errors)),
            p90_error_pct=float(np.percentile(errors, 90)),
            within10=float(np.mean(errors <= 10.0)),
            spearman=spearman,
            kendall=kendall,
            coverage90=float(np.mean(covered)),
            median_interval_pct=median_interval(errors),
        )


def median_interval(values: ArrayLike) -> tuple[float, float] | None:
    """A 90 % interval of the median of whatever `values` (N,) were drawn from; None below five.

    By order statistics: each end misses the median in at most 5 % of cases, whatever the distribution (Conover,
    Practical Nonparametric Statistics, 1999, section 3.2). The extremes of fewer than five miss it more often.
    """
    from scipy.stats import quantile_test

    drawn = np.asarray(values, dtype=np.float64)
    if not len(drawn):
        return None
    found = quantile_test(drawn, q=0.0, p=0.5).confidence_interval(confidence_level=0.9)
    low, high = float(found.low), float(found.high)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else None


def is_covered(measured_ms: NDArray[np.float64], prediction: Prediction) -> NDArray[np.bool_]:
    """Whether each measurement (N,) in ms lies within its prediction's 90 % interval."""
    covered: NDArray[np.bool_] = (prediction.low_ms <= measured_ms) & (measured_ms <= prediction.high_ms)
    return covered


def rank_correlations(
    measured: NDArray[np.float64], predicted: NDArray[np.float64]
) -> tuple[float | None, float | None]:
    """(Spearman's, Kendall's) of measurements and predictions (N,); None for fewer than two, or all alike."""
    if len(measured) < 2 or np.ptp(measured) == 0 or np.ptp(predicted) == 0:
        return None, None
    from scipy.stats import kendalltau, spearmanr

    # Rounding takes correlations a last bit beyond 1.
    values = (spearmanr(measured, predicted).statistic, kendalltau(measured, predicted).statistic)
    first, second = (float(np.clip(value, -1.0, 1.0)) for value in values)
    return first, second
