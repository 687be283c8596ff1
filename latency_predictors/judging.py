"""Is a profile good enough to search with? Errors on whole U-Nets, where they come from, and a verdict in words.

The rule (`RULE` says it to users): fit for search are a Spearman correlation of at least 0.95 and a 90th percentile of
the absolute error of at most 12 %, on at least 10 whole U-Nets that the fit did not see; usable with care 0.85 and
25 %; else not fit. Fitted networks that were left out in turn count for "fit" only with a clear margin (Spearman of at
least 0.975, 90th percentile of at most 6 %): predictors, weights and what was measured were chosen by the same
errors, which are thus too small by an amount that nobody knows; half of each limit is an assumption. The figures for
"fit" are worse than what calibration reaches on a quiet machine (90th percentile 5-7 %, Spearman above 0.98); those
for "care" are what predictions from public figures of other networks reach.

Of few networks the figures themselves are uncertain. With fewer than 10 the median error counts as large as its 90 %
interval allows: its upper end may be at most 10 %, which is the median of errors whose 90th percentile is 25 % (the
90th percentile of normal errors is 1.645 / 0.674 = 2.4 times their median). Fewer than 5 have no such interval, and
three networks are in the right order by luck in one of six cases: what looks good is not judged then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from latency_predictors.importers.records import ImportedMeasurement
    from latency_predictors.judgement import Judgement
    from latency_predictors.measurement import Measurement
    from latency_predictors.npu.profile import ErrorStatement

Level = Literal["fit", "care", "unfit", "unjudged"]
LEAST_NETWORKS = 10
#: Of fewer the median error has no 90 % interval (judgement.median_interval).
_LEAST_JUDGED = 5
_MOST_MEDIAN_PCT = 10.0
_LIMITS: tuple[tuple[Level, float, float], ...] = (("fit", 0.95, 12.0), ("care", 0.85, 25.0))
#: For "fit" by networks that were left out in turn: half the distance to a perfect predictor.
_CLEAR_SPEARMAN, _CLEAR_P90_PCT = 0.975, 6.0
RULE = (
    "fit for search: Spearman >= 0.95 and 90th percentile of the error <= 12 % on at least 10 whole U-Nets that the "
    "fit did not see, or 0.975 and 6 % on as many left out in turn; usable with care: 0.85 and 25 %, and of 5 to 9 "
    "U-Nets a median error of at most 10 % at the upper end of its 90 % interval; else not fit; fewer than 5 U-Nets "
    "within these limits are not judged"
)
WORDS: dict[Level, str] = {
    "fit": "fit for search",
    "care": "usable with care",
    "unfit": "not fit for search",
    "unjudged": "not judged",
}
#: Of two predictions that differ by the tie, the smaller one is the faster network in so many cases of 100.
TIE_CONFIDENCE = 0.90


@dataclass(frozen=True)
class Point:
    """One whole U-Net, measured, and predicted without it.

    low_ms, high_ms: the prediction's 90 % interval.
    repeatability_pct: half the 95 % interval of the measured median, in per cent of it; None where no spread is known.
    """

    candidate: str
    measured_ms: float
    predicted_ms: float
    low_ms: float
    high_ms: float
    repeatability_pct: float | None = None

    @property
    def error_pct(self) -> float:
        """Prediction minus measurement in per cent of the measurement."""
        return 100.0 * (self.predicted_ms / self.measured_ms - 1.0)

    @property
    def log_error(self) -> float:
        """log(prediction / measurement)."""
        return float(np.log(self.predicted_ms / self.measured_ms))

    @property
    def is_covered(self) -> bool:
        """Whether the interval holds the measurement."""
        return self.low_ms <= self.measured_ms <= self.high_ms


@dataclass(frozen=True)
class Verdict:
    """Whether to search with a profile: the level, why, and what to do next; whole sentences."""

    level: Level
    reasons: tuple[str, ...]
    next_steps: tuple[str, ...]
    rule: str = RULE

    @property
    def words(self) -> str:
        """The level in words."""
        return WORDS[self.level]


def tie_of(log_errors: Sequence[float] | NDArray[np.float64]) -> float | None:
    """How many per cent two predictions must differ for the smaller one to be the faster network in 9 of 10 cases.

    Errors of two networks are taken as independent with the standard deviation s of `log_errors` (an error that all
    share does not change an order): exp(t sqrt(2) s) - 1 with t the 0.9 quantile of Student's t of as many degrees of
    freedom as s has, since s itself is uncertain. None below two errors.
    """
    from scipy.special import stdtrit

    errors = np.asarray(log_errors, dtype=np.float64)
    if len(errors) < 2:
        return None
    return float(100.0 * np.expm1(stdtrit(len(errors) - 1, TIE_CONFIDENCE) * np.sqrt(2.0) * np.std(errors, ddof=1)))


def repeatability_of(timing: Measurement | ImportedMeasurement) -> float | None:
    """Half the 95 % interval of a measured latency in per cent of it; None where it is not known."""
    return timing.ci95_half_width_pct


def level_of(judgement: Judgement) -> Level:
    """The level by the rule.

    At most "care" below `LEAST_NETWORKS` networks, as far as the upper end of the median error's interval allows, and
    where networks were left out in turn without a margin.
    """
    spearman = judgement.spearman
    if spearman is None or judgement.num < 3:
        return "unjudged"
    level = next((level for level, rho, p90 in _LIMITS if spearman >= rho and judgement.p90_error_pct <= p90), None)
    if level is None:
        return "unfit"
    if judgement.num < _LEAST_JUDGED:
        return "unjudged"
    if judgement.num < LEAST_NETWORKS:
        return "care" if _highest_median_pct(judgement) <= _MOST_MEDIAN_PCT else "unfit"
    return "care" if _is_unclear(judgement) else level


def _highest_median_pct(judgement: Judgement) -> float:
    """Upper end of the median error's interval; in profiles that do not state it the 90th percentile, which is near."""
    interval = judgement.median_interval_pct
    return judgement.p90_error_pct if interval is None else interval[1]


def _is_unclear(judgement: Judgement) -> bool:
    if judgement.how == "unseen" or judgement.spearman is None:
        return False
    return judgement.spearman < _CLEAR_SPEARMAN or judgement.p90_error_pct > _CLEAR_P90_PCT


def judge(
    judgement: Judgement | None,
    tie_pct: float | None = None,
    repeatability_pct: float | None = None,
    *,
    biased: Sequence[str] = (),
    common: str | None = None,
    extrapolating_pct: int = 0,
    num_fitted: int = 0,
) -> Verdict:
    """The verdict on the errors over whole U-Nets; None: there are none to judge by.

    tie_pct, repeatability_pct: see tie_of and repeatability_of (the median over the networks).
    biased: sentences on options that go with wrong predictions (stage_errors.biased).
    common: a sentence on the error that all networks share (stage_errors.common).
    extrapolating_pct: share of the space's candidates that the profile extrapolates to.
    num_fitted: whole U-Nets that were fitted; one alone shows no error.
    """
    more = "measure whole U-Nets: nanosd calibrate --device DEVICE --budget 10 --measure candidates --out PROFILE"
    if judgement is None:
        none = "no whole U-Net was measured on the device, so no error is known"
        one = "one whole U-Net was measured; it fixes the scale, and no second one shows how far predictions are off"
        return Verdict("unjudged", (one if num_fitted == 1 else none,), (more,))
    errors, level = judgement, level_of(judgement)
    whose = " that the fit did not see" if errors.how == "unseen" else ", left out in turn"
    interval = errors.median_interval_pct
    reasons = [
        f"{errors.num} whole U-Net{'' if errors.num == 1 else 's'}{whose}: median error {errors.median_error_pct:.1f} %"
        + ("" if interval is None else f" (90 % interval {interval[0]:.1f} to {interval[1]:.1f} %)")
        + f", 90th percentile {errors.p90_error_pct:.1f} %, {100 * errors.within10:.0f} % within 10 %, "
        f"Spearman {_two(errors.spearman)}"
    ]
    steps = []
    if errors.num < LEAST_NETWORKS:
        reasons.append(_uncertainty(errors))
        steps.append(more)
    elif level == "care" and _is_unclear(errors) and level_of(errors.model_copy(update={"how": "unseen"})) == "fit":
        reasons.append(
            "these errors also chose the predictor; U-Nets left out in turn make it fit for search only with "
            f"Spearman >= {_CLEAR_SPEARMAN} and a 90th percentile <= {_CLEAR_P90_PCT:.0f} %"
        )
    if common is not None:
        reasons.append(common)
    if repeatability_pct is None:
        reasons.append("the measurements say nothing of their spread, so the noise floor is not known")
    else:
        reasons.append(f"measurements of one network repeat within +-{repeatability_pct:.1f} % (95 %, median)")
        if repeatability_pct >= 0.5 * errors.p90_error_pct > 0.5 * _LIMITS[0][2]:
            steps.append(
                "the measurements' own noise is a large part of the error: measure longer, or on a quieter device "
                "(--set calibration.max_seconds=..., more runs)"
            )
    if tie_pct is not None:
        reasons.append(f"predictions that differ by less than {tie_pct:.0f} % are ties")
    if errors.num >= LEAST_NETWORKS and errors.coverage90 is not None and errors.coverage90 < 0.8:
        reasons.append(
            f"90 % intervals hold only {100 * errors.coverage90:.0f} % of the measurements: they are too narrow"
        )
    if extrapolating_pct >= 20:
        reasons.append(f"{extrapolating_pct} % of the candidates lie outside of what was measured")
        steps.append("measure candidates that the profile extrapolates to: --budget chooses them")
    steps += [f"measure again what goes with the error: {sentence}" for sentence in biased]
    if level == "unfit":
        steps.append(
            "measure more blocks and whole U-Nets (--budget 20), and look for rows of another precision or device"
        )
    elif level == "care":
        steps.append("search with it, take near ties for equal, and measure the picks on the device before choosing")
    elif level == "fit":
        steps.append("search with it: nanosd search --set calibration.profile=PROFILE")
    return Verdict(level, tuple(reasons), tuple(steps))


def _uncertainty(errors: Judgement) -> str:
    """What few networks leave open, a sentence."""
    order = "is too few" if errors.num == 1 else "networks are too few"
    few = f"{errors.num} {order} to be sure of the order; {LEAST_NETWORKS} are needed"
    if errors.num < _LEAST_JUDGED:
        return f"{few}. Of fewer than {_LEAST_JUDGED} the errors themselves are uncertain without a limit"
    if errors.how == "leave_one_out":
        few += ". The predictor was chosen by these same errors, so that others are larger as a rule"
    highest = _highest_median_pct(errors)
    if highest <= _MOST_MEDIAN_PCT:
        return few
    return f"{few}. The median error may be as large as {highest:.0f} %; usable is {_MOST_MEDIAN_PCT:.0f} %"


def judge_npu(errors: ErrorStatement) -> Verdict:
    """The verdict on an NPU profile: no candidate was measured on the device, so its order is not known."""
    reasons = ["an estimate from public measurements of whole networks; no candidate was measured on the device"]
    for found, whose in (
        (errors.without_diffusion, "networks of a kind that was not fitted"),
        (errors.leave_one_model_out, "networks of models that were not fitted, of which near twins were"),
    ):
        if found:
            sizes = np.abs([e.error_pct for e in found])
            signed = float(np.median([e.error_pct for e in found]))
            reasons.append(
                f"{len(found)} {whose}: median error {np.median(sizes):.0f} %, 90th percentile "
                f"{np.percentile(sizes, 90):.0f} %, typically {abs(signed):.0f} % too {'high' if signed > 0 else 'low'}"
            )
    for figure in errors.published:
        reasons.append(
            f"published, never fitted: {figure.what}: {figure.published_ms:g} ms, predicted {figure.predicted_ms:g} ms"
        )
    tie = tie_of([np.log1p(e.error_pct / 100.0) for e in errors.without_diffusion or errors.leave_one_model_out])
    if tie is not None:
        reasons.append(
            f"predictions that differ by less than {tie:.0f} % are ties by the scatter of those errors; candidates of "
            "one space, which share most of their graphs, may scatter less"
        )
    steps = (
        "sketch a front with it, and search with a budget well inside of it",
        "with the phone at hand, measure ten whole U-Nets: nanosd calibrate --device DEVICE --budget 10 --measure "
        "candidates --out PROFILE",
    )
    return Verdict("unjudged", tuple(reasons), steps)


def _two(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"
