"""What is to be said of a device profile, as (label, value, small print): tiles of its page, lines of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latency_predictors.information import INFORMATION
from nas.plots.format import NONE, counted, percent

if TYPE_CHECKING:
    from latency_predictors.evaluation import Evaluation
    from latency_predictors.npu.profile import NpuProfile

Fact = tuple[str, str, str]

#: By Judgement.how; they go on "10 ...".
HOW = {
    "unseen": "that the fit did not see",
    "leave_one_out": "left out of the fit in turn",
}


def profile_facts(found: Evaluation) -> list[Fact]:
    """What a profile is of, and what it was fitted to."""
    conditions = [found.runtime, found.precision]
    if found.threads is not None:
        conditions.append(counted(found.threads, "thread"))
    counts = ((found.num_parts, "block"), (found.num_networks, "U-Net"))
    fitted = " and ".join(counted(num, what) for num, what in counts if num)
    return [
        ("device", found.device, ", ".join(conditions)),
        ("search space", found.space, f"latents {found.latent_size} x {found.latent_size}"),
        ("fitted to", fitted or "no measurement", INFORMATION.get(found.information, found.information)),
    ] + ([] if found.toolchain is None else [("toolchain", found.toolchain, "")])


def error_facts(found: Evaluation) -> list[Fact]:
    """The figures of its errors on whole U-Nets; none where nothing judges it."""
    errors = found.judgement
    if errors is None:
        return []
    interval = errors.median_interval_pct
    sure = "too few U-Nets for an interval of it"
    if interval is not None:
        sure = f"absolute; 90 % interval {interval[0]:.1f} to {interval[1]:.1f} %"
    floor = "not known" if found.repeatability_pct is None else f"±{found.repeatability_pct:.1f} %"
    return [
        ("judged on", counted(errors.num, "whole U-Net"), HOW[errors.how]),
        ("median error", percent(errors.median_error_pct), sure),
        ("90th percentile", percent(errors.p90_error_pct), "absolute error"),
        ("within ±10 %", percent(100 * errors.within10), "of the U-Nets"),
        ("Spearman", two(errors.spearman), f"rank correlation, 1: the same order; Kendall {two(errors.kendall)}"),
        (
            "90 % intervals hold",
            percent(None if errors.coverage90 is None else 100 * errors.coverage90),
            "of the measurements",
        ),
        ("noise floor", floor, "95 % interval of a measured median"),
        ("ties", NONE if found.tie_pct is None else f"under {found.tie_pct:.0f} %", "apart, either may be the faster"),
    ]


def npu_facts(profile: NpuProfile) -> list[Fact]:
    """What an NPU profile is of, and what it was fitted to."""
    return [
        ("device", profile.device, f"{profile.precision.value}, {profile.attention.replace('_', '-')} attention"),
        ("latents", f"{profile.latent_size} x {profile.latent_size}", "other sizes extrapolate"),
        ("fitted to", counted(profile.num_networks, "figure"), "of whole networks, published; no block measured"),
    ]


def two(value: float | None) -> str:
    """A correlation."""
    return NONE if value is None else f"{value:.3f}"
