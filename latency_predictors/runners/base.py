"""What every runner must offer: tests/contracts/test_runners.py holds all of them to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt

from latency_predictors.measurement import Measurement, Precision, Recording
from search_spaces.errors import UserError

Progress = Callable[[int, int, str], None]
"""on_progress(done, total, note)"""

Announce = Callable[[str], None]
"""announce(subject): what a runner turns to now; cheap (under a microsecond), so that it may stand before every run"""

Sample = Mapping[str, NDArray[Any]]
"""One set of inputs of a graph: name -> array."""


class Prepared(BaseModel):
    """What became of a float32 graph that a runner turned into its precision.

    settings: how it was quantised, in words of the tool that did it.
    integer_macs_share: MACs in integer kernels, of all, in [0, 1]; None where its runtime does not say.
    float_macs: operators that still multiply in floating point (operator -> MACs), where the share is known.
    error_l2: relative L2 distance of each output to the float32 graph's, on a sample that nothing was calibrated on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: dict[str, str | bool]
    integer_macs_share: float | None = Field(default=None, ge=0, le=1)
    float_macs: dict[str, int] = Field(default_factory=dict)
    error_l2: dict[str, NonNegativeFloat] = Field(default_factory=dict)


class DeviceError(UserError):
    """The device cannot be measured on (any more): it was unplugged, is full or too hot. No subject is at fault."""


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

    All subjects of a call are loaded at once: the caller forms groups that fit into memory. `passes` and
    `measure` raise UserError, naming the subject, when a graph cannot be loaded or when one of its
    nodes would run anywhere else than on this runner's execution provider, and DeviceError when it is nothing about
    a subject. A pass that such an error ends holds the subjects before it; the error follows with the next one.

    Runners are made by name (see the package: `make_runner`), also in the worker process that a group is
    measured in (see runners.worker): a constructor takes JSON-ready keywords only, and is cheap.
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

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the runtime and of what else decides its speed (name -> version); read when asked for."""

    @property
    def placement(self) -> dict[str, dict[str, int]]:
        """Of the subjects loaded so far: execution provider -> number of nodes. {} where the runtime does not say."""

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """Turns a float32 ONNX file, in place, into the graph that `passes` takes; None if it is that already.

        Quantised precisions are calibrated on `samples` (at least one). The caller does this before a group
        is measured, in its own process.
        """

    def passes(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        announce: Announce | None = None,
    ) -> Iterator[dict[str, Recording]]:
        """Endless passes over the subjects (name -> ONNX file): for callers that keep each as it comes.

        `primer` is run before each short run (see runners.round_robin); by default the largest subject.
        `announce` is called with the subject's name before it is loaded and before each of its runs: when the
        process dies or stalls, the last one announced was at fault.
        """

    def measure(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, Measurement]:
        """Passes until `settings` are met, combined (name -> record)."""
