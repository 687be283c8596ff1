"""What is said of a run to whoever looks on; `nanosd status --json` prints it as it stands here."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["running", "finished", "stopped", "killed"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(_Frozen):
    """What a phase is doing."""

    name: str
    """load, prepare, calibrate, distill, prior, reuse, search, pick, finalize, export, measure, report."""
    done: int
    total: int | None
    seconds: float
    """Since it began; of a run that does not go on, until it was last heard of."""
    remaining_s: float | None
    """At the speed so far; None where that says nothing yet."""
    note: str
    """Counts and remarks in words."""


class Driver(_Frozen):
    """The process that works on the run."""

    alive: bool
    pid: int | None
    host: str | None


class Worker(_Frozen):
    """A process that evaluates candidates."""

    worker: str
    """host:process id."""
    doing: Literal["starting", "evaluating", "waiting"]
    seconds: float
    """Since when."""
    candidate: str | None
    options: dict[str, str]
    latency_ms: float | None
    num_params: int | None
    predicted: tuple[float, float, float] | None
    """5 %, 50 % and 95 % quantiles of its error, by the sampler's surrogate."""
    prior: float | None
    """Its error as the single-swap errors have it."""


class Proposed(_Frozen):
    """A candidate that was proposed, and why."""

    trial: int
    candidate: str
    words: str
    why: Literal["initial", "improvement", "random", "queue", "unsaid"]
    """`queue`: the predicted front of the start, or a candidate whose evaluation was interrupted; `unsaid`: the sampler
    gives no reasons."""
    expected_improvement: float | None
    hypervolume: float | None
    """Of the front at that time, in the unit of the expected improvement."""
    predicted: tuple[float, float, float] | None
    state: Literal["open", "done", "stopped", "failed"]
    measured: float | None
    reason: str | None


class Failure(_Frozen):
    """Candidates that ended without a result, by reason."""

    outcome: str
    reason: str
    num_candidates: int
    example: str


class Calibration(_Frozen):
    """How the surrogate's 90 % intervals did against what was measured later."""

    num: int
    within: int


class RunStatus(_Frozen):
    """How a run is doing."""

    run: str
    name: str
    state: State
    """`killed`: nobody works on it, and who did left no word."""
    reason: str | None
    """Why it stopped."""
    resume: str | None
    """The command that goes on with it."""
    teacher: str
    space: str
    sampler: str
    driver: Driver
    phase: Step | None
    """Under way, or the last one; None of a run that has not begun one."""
    phase_seconds: dict[str, float]
    """Of the phases that ended."""
    outcomes: dict[str, int]
    """Candidates by outcome."""
    candidates_done: int
    candidates_failed: int
    candidates_total: int
    candidates_reused: int
    front_size: int
    hypervolume: float
    evaluations_per_minute: float | None
    seconds_per_evaluation: float | None
    workers_wanted: int
    workers: tuple[Worker, ...]
    failures: tuple[Failure, ...]
    proposals: tuple[Proposed, ...]
    """The last ones, the latest first."""
    calibration: Calibration | None
    report: str | None
    notes: tuple[str, ...]
    """What could not be read, and what that means."""
    prior: dict[str, float | None] | None = None
    """How the sum of single-swap errors held; None before a candidate has both."""
