"""What every runner must offer: tests/contracts/test_runners.py holds all of them to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from latency_predictors.measurement import Measurement, Precision, Recording

Progress = Callable[[int, int, str], None]
"""on_progress(done, total, note)"""


class MeasureSettings(BaseModel):
    """How long a measuring session lasts.

    Rounds time every subject once, in an order drawn from `seed`. `rounds_per_pass` of them make a
    pass. After a pass the session ends when every median's 95 % interval is within +-`target_ci_pct`
    per cent and there are `min_repeats` rounds, or when `max_seconds` of processor time times
    the number of subjects have gone by (of wall time where that is less).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    warm_up: PositiveInt = 3
    min_repeats: PositiveInt = 20
    rounds_per_pass: PositiveInt = 5
    max_seconds: float = Field(default=0.3, gt=0, allow_inf_nan=False)
    target_ci_pct: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    seed: int = 0


@runtime_checkable
class Runner(Protocol):
    """Times ONNX graphs on one device with one runtime, precision and number of threads.

    All subjects of a call are loaded at once: the caller forms groups that fit into memory. Both
    methods raise UserError, naming the subject, when a graph cannot be loaded or when one of its
    nodes would run anywhere else than on this runner's execution provider.
    """

    @property
    def device(self) -> str:
        """The hardware's name."""

    @property
    def runtime(self) -> str:
        """Short name of the runtime and its execution provider, e.g. "onnxruntime-cpu"."""

    @property
    def precision(self) -> Precision:
        """The precision the graphs run in."""

    @property
    def threads(self) -> int:
        """Threads of one run."""

    def passes(
        self, subjects: Mapping[str, Path], settings: MeasureSettings, primer: Path | None = None
    ) -> Iterator[dict[str, Recording]]:
        """Endless passes over the subjects (name -> ONNX file): for callers that keep each as it comes.

        `primer` is run before each short run (see runners.round_robin); by default the largest subject.
        """

    def measure(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, Measurement]:
        """Passes until `settings` are met, combined (name -> record)."""
