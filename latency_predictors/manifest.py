"""What a measuring session was: device, versions, settings, where nodes ran, and how far the machine drifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from latency_predictors.measurement import MIN_FOR_LEVEL, Conditions, Precision, Recording
from latency_predictors.runners.base import Prepared

REFERENCE = "reference"
"""Subject name of the graph that is timed in every pass of every group, to see the machine drift."""

DRIFT_WARNING_PCT = 5.0
_BLOCKS = 5


class Drift(BaseModel):
    """How the reference's latency moved over a session, in per cent of its median.

    drift_pct: largest minus smallest median of (up to) five equal stretches of the passes.
    noise_pct: what such stretches would differ by without drift, about: five standard errors of their medians,
        from the spread of passes that follow each other.
    corrected: whether each pass had subjects enough (8) for its level to be taken out of the samples.
        The level is that of a group's passes against each other; between groups nothing is corrected.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drift_pct: NonNegativeFloat
    noise_pct: NonNegativeFloat
    num_passes: PositiveInt
    corrected: bool

    @property
    def warning(self) -> str | None:
        """One line when the drift is above 5 % and above its noise; None otherwise."""
        if self.drift_pct <= max(DRIFT_WARNING_PCT, self.noise_pct):
            return None
        remedy = (
            "samples are divided by the level of their pass, which takes it out within a group of subjects"
            if self.corrected
            else f"fewer than {MIN_FOR_LEVEL} subjects a pass cannot correct it: measure again on a quieter machine"
        )
        return f"drift: the reference graph's latency moved by {self.drift_pct:.1f} % during the session; {remedy}"


def drift_of(reference: Sequence[Recording], subjects_per_pass: int) -> Drift | None:
    """The drift that recordings of the reference graph show; None with fewer than two passes.

    `subjects_per_pass`: the smallest number of subjects timed beside it.
    """
    passes = [float(np.median(r.wall_ms or r.cpu_ms)) for r in sorted(reference, key=lambda r: r.pass_id)]
    if len(passes) < 2:
        return None
    overall = float(np.median(passes))
    stretches = [s for s in np.array_split(np.array(passes), _BLOCKS) if len(s)]
    medians = [float(np.median(s)) for s in stretches]
    # Differences of neighbours hold noise and hardly any drift; a median's standard error is 1.25 sigma / sqrt(n).
    sigma = 1.4826 * float(np.median(np.abs(np.diff(passes)))) / np.sqrt(2.0)
    error = 1.25 * sigma / np.sqrt(max(1, min(map(len, stretches))))
    return Drift(
        drift_pct=100.0 * (max(medians) - min(medians)) / overall,
        noise_pct=100.0 * 5.0 * error / overall,
        num_passes=len(passes),
        corrected=subjects_per_pass >= MIN_FOR_LEVEL,
    )


class SubjectFacts(BaseModel):
    """What is known of a subject's graph beside its latency.

    placement: execution provider -> nodes. prepared: what its quantisation gave; None for a graph that is measured
    as it was exported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    placement: dict[str, NonNegativeInt] = Field(default_factory=dict)
    prepared: Prepared | None = None


class QuantizationSummary(BaseModel):
    """The subjects' quantisation in one record; see runners.base.Prepared for the fields of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, str | bool]
    integer_macs_share: tuple[float, float] | None
    """Smallest and largest of the subjects."""
    float_operators: tuple[str, ...]
    worst_error_l2: float | None


class Manifest(BaseModel):
    """A measuring session: what else its latencies depend on.

    conditions: the machine when the session ended. placement: nodes per execution provider, over all subjects.
    failed: subjects that could not be measured, with the reason.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    runtime: str
    precision: Precision
    threads: PositiveInt
    versions: dict[str, str]
    conditions: Conditions
    settings: dict[str, float | int | str | bool | None]
    placement: dict[str, NonNegativeInt]
    quantization: QuantizationSummary | None
    drift: Drift | None
    num_subjects: NonNegativeInt
    failed: dict[str, str]
    started_at: str | None
    finished_at: str


def summarise_quantization(facts: Mapping[str, SubjectFacts]) -> QuantizationSummary | None:
    """None where no subject was quantised."""
    prepared = [fact.prepared for fact in facts.values() if fact.prepared is not None]
    if not prepared:
        return None
    shares = [p.integer_macs_share for p in prepared if p.integer_macs_share is not None]
    errors = [error for p in prepared for error in p.error_l2.values()]
    return QuantizationSummary(
        settings=prepared[0].settings,
        integer_macs_share=(min(shares), max(shares)) if shares else None,
        float_operators=tuple(sorted({operator for p in prepared for operator in p.float_macs})),
        worst_error_l2=max(errors, default=None),
    )


def total_placement(facts: Mapping[str, SubjectFacts]) -> dict[str, int]:
    """Nodes per provider over all subjects."""
    total: dict[str, int] = {}
    for fact in facts.values():
        for provider, count in fact.placement.items():
            total[provider] = total.get(provider, 0) + count
    return total
