"""All that is to be said of a profile: its errors on whole U-Nets, where they come from, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latency_predictors.judgement import Judgement, median_interval
from latency_predictors.judging import Point, Verdict, judge, repeatability_of, tie_of
from latency_predictors.plausibility import implausible
from latency_predictors.stage_errors import OptionError, biased, common, option_errors
from search_spaces.candidate import Candidate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from latency_predictors.importers.records import ImportedMeasurement
    from latency_predictors.measurement import Measurement
    from latency_predictors.profile import DeviceProfile

_NUM_LOOKED_AT = 1000


@dataclass(frozen=True)
class Evaluation:
    """What `nanosd calibrate` prints at its end, and --evaluate shows.

    points: one for each judged network; empty when no whole U-Net was measured.
    extrapolating_pct: share of the space's candidates (a sample of them) that the profile extrapolates to.
    warnings: what cannot be so with the measurements as a whole (plausibility.implausible).
    """

    device: str
    runtime: str
    precision: str
    threads: int | None
    toolchain: str | None
    space: str
    latent_size: int
    information: str
    num_parts: int
    num_networks: int
    points: tuple[Point, ...]
    judgement: Judgement | None
    tie_pct: float | None
    repeatability_pct: float | None
    effects: tuple[OptionError, ...]
    extrapolating_pct: int
    verdict: Verdict
    warnings: tuple[str, ...] = ()


def evaluate(
    profile: DeviceProfile, unseen: Mapping[str, Measurement | ImportedMeasurement] | None = None
) -> Evaluation:
    """Judges a profile on networks that its fit did not see.

    They are `unseen` (candidate id -> timing) where given, else the profile's own validation networks, else those that
    it was fitted to, each predicted by the fit without it.

    Raises UserError for an unseen network that the profile has no options for.
    """
    space = profile.own_space
    points, judgement = _judged(profile, unseen)
    if judgement is not None and judgement.median_interval_pct is None:  # of a file from before profiles had it
        interval = median_interval([abs(p.error_pct) for p in points])
        judgement = judgement.model_copy(update={"median_interval_pct": interval})
    effects = tuple(
        option_errors(
            [Candidate.from_id(p.candidate, space.stages).options for p in points], [p.log_error for p in points]
        )
    )
    matrix = space.sample(np.random.default_rng(0), _NUM_LOOKED_AT)
    outside = round(100 * float(np.mean(profile.predict(space, matrix).extrapolates)))
    spreads = [p.repeatability_pct for p in points if p.repeatability_pct is not None]
    repeatability = float(np.median(spreads)) if spreads else None
    # Of latencies that are all one there is no order, so that there are no ties in it.
    is_ordered = judgement is not None and judgement.spearman is not None
    tie = tie_of([p.log_error for p in points]) if is_ordered else None
    return Evaluation(
        device=profile.device,
        runtime=profile.runtime,
        precision=profile.precision,
        threads=profile.threads,
        toolchain=profile.toolchain,
        space=profile.space,
        latent_size=profile.latent_size,
        information=profile.information,
        num_parts=profile.num_parts,
        num_networks=profile.num_networks,
        points=tuple(points),
        judgement=judgement,
        tie_pct=tie,
        repeatability_pct=repeatability,
        effects=effects,
        extrapolating_pct=outside,
        verdict=judge(
            judgement,
            tie,
            repeatability,
            biased=biased(effects),
            common=common([p.log_error for p in points]),
            extrapolating_pct=outside,
            num_fitted=profile.num_networks,
        ),
        warnings=implausible(profile.own_space, profile.kernel_tables, profile.training),
    )


def _judged(
    profile: DeviceProfile, unseen: Mapping[str, Measurement | ImportedMeasurement] | None
) -> tuple[list[Point], Judgement | None]:
    if unseen:
        space = profile.own_space
        matrix = np.stack([space.encode(Candidate.from_id(name, space.stages)) for name in unseen])
        found = profile.predict(space, matrix)
        points = [
            Point(name, timing.latency_ms, float(ms), float(low), float(high), repeatability_of(timing))
            for (name, timing), ms, low, high in zip(
                unseen.items(), found.latency_ms, found.low_ms, found.high_ms, strict=True
            )
        ]
        return points, Judgement.unseen([p.measured_ms for p in points], found)
    if profile.validation:
        return [
            Point(c.candidate, c.measured_ms, c.predicted_ms, c.low_ms, c.high_ms, repeatability_of(c.timing))
            for c in profile.validation
        ], profile.judgement
    errors = profile.model.loo_log_errors
    if len(errors) != len(profile.fitted):
        return [], None
    points = []
    for check, error in zip(profile.fitted, errors, strict=True):
        # The interval of the full fit, around the prediction of the fit without this network.
        shift = check.measured_ms * float(np.exp(error)) / check.predicted_ms
        spread = repeatability_of(check.timing)
        points.append(
            Point(
                check.candidate,
                check.measured_ms,
                check.predicted_ms * shift,
                check.low_ms * shift,
                check.high_ms * shift,
                spread,
            )
        )
    return points, profile.judgement
