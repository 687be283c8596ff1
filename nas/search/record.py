"""What is known of one evaluated (or refused) candidate."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

Outcome = Literal["done", "failed", "infeasible", "stopped"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
FORECAST = "forecast"
"""User attribute of a trial that was stopped: for each unknown objective the 5 % and 95 % quantiles of its value."""


class Rung(BaseModel):
    """What was measured of a candidate on its way, after a number of steps: of training, or of samples compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=0)
    metrics: dict[str, FiniteFloat]
    """`<metric>_se` is the standard error of a metric, where it is known."""
    seconds: FiniteFloat = 0.0
    """Since the evaluation began."""


class CandidateRecord(BaseModel):
    """What is known of one candidate. Every number is finite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    candidate: str = Field(min_length=1)
    """Canonical candidate id."""
    options: dict[str, str]
    """Stage to option name."""
    vector: tuple[int, ...]
    """Option index per stage."""
    outcome: Outcome
    reason: str | None = None
    """Why the outcome is not `done`, in one line."""
    latency_ms: FiniteFloat
    """Predicted, known before the evaluation."""
    num_params: int
    num_macs: int | None = None
    prior: FiniteFloat | None = None
    """Error that was predicted before the evaluation."""
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    """What the evaluator measured (latent_error, noise_error, tafid ...)."""
    rungs: tuple[Rung, ...] = ()
    """What it measured on the way, by growing number of steps."""
    predicted_error: FiniteFloat | None = None
    """What the error of a stopped candidate was expected to be in the end (median)."""
    predicted_low: FiniteFloat | None = None
    """5 % quantile of it."""
    predicted_high: FiniteFloat | None = None
    """95 % quantile of it."""
    trial: str
    """Unique name of the evaluation: a record is stored once however often it is appended."""
    reused_from: str | None = None
    """The run that evaluated it, where the record was taken over from another run."""
    seed: int | None = None
    recipe_hash: str = ""
    worker: str = ""
    """host:process id."""
    seconds: FiniteFloat = 0.0
    finished_at: str = ""
    """UTC, ISO 8601."""

    @field_validator("rungs")
    @classmethod
    def _rungs_grow(cls, rungs: tuple[Rung, ...]) -> tuple[Rung, ...]:
        steps = [rung.steps for rung in rungs]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"the steps of rungs must grow, not {steps}")
        return rungs


def key64(name: str) -> int:
    """64 bits of a name's BLAKE2b digest: what records are found by, in 8 bytes instead of a text.

    Among a million names two share a key with a probability of 3e-8, as little as two random trial names are the same.
    """
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
