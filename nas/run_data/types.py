"""The typed facts of a run: plain frozen dataclasses, no file is opened here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nas.baselines import Baselines
from nas.fidelity.check_record import Checks
from nas.fidelity.proxy_record import Proxy
from nas.run_data.columns import Columns

#: Stages of SD 1.x, in the order of a candidate's id.
STAGES = ("E1", "E2", "E3", "deep", "D3", "D2", "D1")
DONE = "done"
OBJECTIVES = ("latent_error", "latency_ms", "num_params")


@dataclass(frozen=True)
class Candidate:
    """One evaluated (or failed) candidate. Errors are relative (1 = the teacher's variance); None: not measured."""

    candidate_id: str
    words: Mapping[str, str]
    num_params: int
    num_macs: int
    latency_ms: float
    latent_error: float | None
    noise_error: float | None
    tafid: float | None
    prior: float | None
    outcome: str
    reason: str | None
    seconds: float | None
    order: int

    @property
    def is_done(self) -> bool:
        """Whether it finished with a usable latent error."""
        return self.outcome == DONE and self.latent_error is not None


@dataclass(frozen=True)
class LatencyPoint:
    """A whole U-Net, measured and predicted; `check` points took no part in the fit.

    low_ms, high_ms: 90 % interval of the prediction; None in profiles of the first format, which had none.
    """

    candidate_id: str
    measured_ms: float
    predicted_ms: float
    role: Literal["fit", "check"]
    low_ms: float | None = None
    high_ms: float | None = None

    @property
    def error_pct(self) -> float:
        """Absolute prediction error in percent of the measured latency."""
        return 100 * abs(self.predicted_ms - self.measured_ms) / self.measured_ms


@dataclass(frozen=True)
class Device:
    """The device profile's facts that a reader wants.

    Attributes:
        fitted_from: what it was fitted from, a key of `latency_predictors.information.INFORMATION`; None in profiles of
            the first format.
        error: its error on networks that it did not see, as a sentence; empty where it says none.
        p90_error_pct, spearman, coverage90: over these networks the 90th percentile of the absolute error, the rank
            correlation, and the share (0 to 1) within their 90 % interval.
        verdict: whether it is fit for search, in words (`latency_predictors.judging`); empty in profiles without a
            judgement.
        notes: what else it says of itself.
        published: (what, published ms, predicted ms) of figures of others that it never saw.
    """

    device: str
    runtime: str
    precision: str
    threads: int | None
    conditions: Mapping[str, Any]
    points: tuple[LatencyPoint, ...]
    fitted_from: str | None = None
    error: str = ""
    p90_error_pct: float | None = None
    spearman: float | None = None
    coverage90: float | None = None
    verdict: str = ""
    notes: tuple[str, ...] = ()
    published: tuple[tuple[str, float, float], ...] = ()

    def errors_pct(self, role: Literal["fit", "check"]) -> list[float]:
        """Absolute errors in percent of the points of one role."""
        return [p.error_pct for p in self.points if p.role == role]


@dataclass(frozen=True)
class BlockLoss:
    """Relative distillation loss of one surrogate block (1 = the teacher output's variance).

    None where it was never taken: a block that an earlier run left in the bank, or one that stopped (`reason`).
    """

    stage: str
    option: str
    first_loss: float | None
    last_loss: float | None
    reason: str | None = None
    start_loss: float | None = None
    """Of the inherited weights, on held-out batches."""
    end_loss: float | None = None
    """Of the trained weights, on the same ones."""

    @property
    def gain(self) -> float | None:
        """Share of its inherited loss that a block lost by training, on held-out batches; None where not measured."""
        if self.start_loss is None or self.end_loss is None or self.reason:
            return None
        return 1.0 if self.start_loss == 0 else max(0.0, 1 - self.end_loss / self.start_loss)


@dataclass(frozen=True)
class SwapTable:
    """Latent error of the base network (all teacher words that the space offers) with one option swapped in.

    `errors[stage][option]`; None where that network gave non-finite values.
    """

    errors: Mapping[str, Mapping[str, float | None]]
    base_error: float | None


@dataclass(frozen=True)
class SpaceFacts:
    """What is known of all candidates of the space before any is evaluated; None where the run does not say.

    Ranges are (least, largest); `params_latency_tau` is Kendall's tau of parameters and predicted latency.
    """

    num_candidates: int | None = None
    latency_ms: tuple[float, float] | None = None
    num_params: tuple[float, float] | None = None
    params_latency_tau: float | None = None


@dataclass(frozen=True)
class Pick:
    """A candidate chosen by a rule."""

    name: str
    candidate_id: str
    rule: str | None


@dataclass(frozen=True)
class Scores:
    """Distances to the teacher; None where not measured."""

    latent_error: float | None = None
    noise_error: float | None = None
    tafid: float | None = None


@dataclass(frozen=True)
class ClosingRow:
    """One row of the closing table. `before` and `after` are before and after end-to-end alignment.

    `aligned` is False where the alignment brought the model no closer to the teacher and was not kept.
    `predicted_ms` is of the device that was measured; where the search was for another one, `target_...` are that
    one's name and prediction with its 90 % interval. `checks` are the dearer comparisons with the teacher after
    alignment; None for the teacher and in older runs.
    """

    name: str
    candidate_id: str | None
    words: Mapping[str, str]
    num_params: int | None
    num_macs: int | None
    predicted_ms: float | None
    measured_ms: float | None
    measured_iqr_ms: float | None
    speed_up: float | None
    before: Scores
    after: Scores
    tafid_floor: float | None
    aligned: bool | None = None
    target_device: str | None = None
    target_ms: float | None = None
    target_low_ms: float | None = None
    target_high_ms: float | None = None
    checks: Checks | None = None

    @property
    def is_teacher(self) -> bool:
        """Whether this row is the teacher itself."""
        return self.name == "teacher"


@dataclass(frozen=True)
class ModelImages:
    """The images of one model, in the order of the captions."""

    model: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class RunData:
    """Everything that the files of one run say; `missing` has one sentence for each part that is not there.

    Of more than `columns.MAX_DRAWN` finished candidates `candidates` has only those that pages draw; `columns` has all.
    """

    folder: Path
    config: Mapping[str, Any] | None = None
    candidates: tuple[Candidate, ...] = ()
    device: Device | None = None
    space: SpaceFacts = SpaceFacts()
    swap_table: SwapTable | None = None
    blocks: tuple[BlockLoss, ...] = ()
    picks: tuple[Pick, ...] = ()
    closing: tuple[ClosingRow, ...] = ()
    phases: Mapping[str, float] | None = None
    images: tuple[ModelImages, ...] = ()
    captions: tuple[str, ...] = ()
    provenance: Mapping[str, Any] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    columns: Columns | None = None
    proxy: Proxy | None = None
    baselines: Baselines | None = None
    baseline_images: tuple[ModelImages, ...] = ()

    @cached_property
    def evaluated(self) -> Columns:
        """All finished candidates, also those that are not drawn."""
        return Columns.of(self.candidates) if self.columns is None else self.columns

    @property
    def done(self) -> tuple[Candidate, ...]:
        """Candidates that finished, in the order in which they did: those that are drawn, see `evaluated`."""
        return tuple(c for c in self.candidates if c.is_done)

    @property
    def failed(self) -> tuple[Candidate, ...]:
        """Candidates that did not finish with usable figures: the first ones, `evaluated.num_failed` counts all."""
        return tuple(c for c in self.candidates if not c.is_done)

    @property
    def teacher(self) -> ClosingRow | None:
        """The teacher's row of the closing table."""
        return next((row for row in self.closing if row.is_teacher), None)


def words_of(candidate_id: str) -> dict[str, str]:
    """Words per stage of a canonical candidate id such as `RARA-RA-R-none-RARARA-RR-R`; empty if it is none."""
    words = candidate_id.split("-")
    return dict(zip(STAGES, words, strict=True)) if len(words) == len(STAGES) else {}


def word_order(option: str) -> tuple[int, str]:
    """Sort key of option names: the longest word first; the skip after `@` adds no length."""
    return -len(option.split("@")[0]), option
