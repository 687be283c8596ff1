"""The steps from a float32 graph to a checked context binary, each in a process of its own.

A step is a function of files, so that it can run in another process: memory is given back between steps, and a
compiler that aborts or hangs costs one step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from latency_predictors import isolated
from latency_predictors.qnn.compiler import Optimization, binary_path, compile_graph, emulate, toolchain
from latency_predictors.qnn.quantization import QuantizationSettings, quantize_graph
from latency_predictors.qnn.report import CompileReport, Step
from latency_predictors.qnn.socs import find_soc
from latency_predictors.quantization import fitting_inputs, open_graph, relative_l2
from latency_predictors.samples import read_samples
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.qnn.report import Status

_HERE = __name__


class CompileSettings(BaseModel):
    """For which SoC, in which precision, and what a step may cost.

    optimization: effort of the compiler, see :func:`latency_predictors.qnn.compile_graph`.
    timeout_s: wall time of one step. memory_limit_bytes: private memory of one step's process.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    soc: str = "SM8750"
    quantization: QuantizationSettings = Field(default_factory=QuantizationSettings)
    optimization: Optimization = 0
    timeout_s: PositiveFloat = 1800.0
    memory_limit_bytes: PositiveInt = 8 << 30


class Steps:
    """Runs steps of one subject one after another and keeps account; the first that fails ends it."""

    def __init__(self, subject: str, settings: CompileSettings) -> None:
        self._subject, self._settings = subject, settings
        self._toolchain = toolchain()
        find_soc(settings.soc)
        self._seconds: dict[Step, float] = {}
        self._peak_bytes = 0
        self._broken: tuple[Step, Status, str] | None = None

    def run(self, step: Step, target: str, **arguments: Any) -> Any:
        """The step's value, or None when it or one before it failed (see :meth:`report`)."""
        if self._broken:
            return None
        outcome = isolated.call(
            target,
            arguments,
            timeout_s=self._settings.timeout_s,
            memory_limit_bytes=self._settings.memory_limit_bytes,
        )
        self._seconds[step] = round(outcome.seconds, 2)
        self._peak_bytes = max(self._peak_bytes, outcome.peak_bytes)
        if outcome.status != "ok":
            assert outcome.reason is not None
            self._broken = (step, outcome.status, outcome.reason)
        return outcome.value

    def report(self, compiled: Mapping[str, Any] | None, error_l2: dict[str, float] | None) -> CompileReport:
        """What became of the subject; `compiled` is the value of the step that compiles."""
        step, status, reason = self._broken or (None, "compiled", None)
        return CompileReport(
            subject=self._subject,
            soc=self._settings.soc,
            quantization=self._settings.quantization,
            optimization=self._settings.optimization,
            toolchain=self._toolchain,
            status=status,
            step=step,
            reason=reason,
            num_nodes=compiled["num_nodes"] if compiled else None,
            context_bytes=compiled["context_bytes"] if compiled else None,
            seconds=self._seconds,
            peak_bytes=self._peak_bytes,
            error_l2=error_l2,
        )


def compile_subject(
    steps: Steps, graph: Path, samples: Path, context: Path, settings: CompileSettings, *, check_numerics: bool
) -> CompileReport:
    """Quantises, compiles and, if asked, emulates one float32 graph.

    Parameters
    ----------
    steps: may have run steps before (an export); they are in the report too.
    graph: ONNX file in float32.
    samples: file of :func:`latency_predictors.samples.write_samples`; the last sample is kept from
        calibration and checks the numerics, so two are needed at least.
    context: where the compiled graph is written, with its binary beside it.
    """
    quantised = context.with_name(f"{context.stem}.qdq.onnx")
    try:
        steps.run(
            "quantise",
            f"{_HERE}:_quantise",
            graph=str(graph),
            samples=str(samples),
            out=str(quantised),
            settings=settings.quantization.model_dump(),
        )
        compiled = steps.run(
            "compile",
            f"{_HERE}:_compile",
            graph=str(quantised),
            soc=settings.soc,
            out=str(context),
            optimization=settings.optimization,
        )
        error_l2 = None
        if check_numerics:
            error_l2 = steps.run(
                "emulate",
                f"{_HERE}:_check",
                graph=str(graph),
                context=str(context),
                soc=settings.soc,
                samples=str(samples),
            )
    finally:
        quantised.unlink(missing_ok=True)
    return steps.report(compiled, error_l2)


def remove_compiled(context: Path) -> None:
    """Deletes a compiled graph and its binary, if there."""
    context.unlink(missing_ok=True)
    binary_path(context).unlink(missing_ok=True)


def _quantise(graph: str, samples: str, out: str, settings: Mapping[str, Any]) -> None:
    calibration = read_samples(Path(samples))[:-1]
    quantize_graph(Path(graph), calibration, Path(out), QuantizationSettings.model_validate(settings))


def _compile(graph: str, soc: str, out: str, optimization: Optimization) -> dict[str, Any]:
    return compile_graph(Path(graph), find_soc(soc), Path(out), optimization).model_dump(mode="json")


def _check(graph: str, context: str, soc: str, samples: str) -> dict[str, float]:
    """Relative L2 error per output of the emulated graph against the float32 one, on the last sample."""
    sample = read_samples(Path(samples))[-1]
    session = open_graph(Path(graph))
    names = [node.name for node in session.get_outputs()]
    wanted = dict(zip(names, session.run(names, fitting_inputs(Path(graph).name, session, sample)), strict=True))
    del session
    found = emulate(Path(context), find_soc(soc), sample)
    errors = {name: relative_l2(found[name], wanted[name]) for name in names}
    bad = [name for name, error in errors.items() if not np.isfinite(error)]
    if bad:
        raise UserError(f"outputs {', '.join(bad)} of {Path(graph).name} are all zero or not finite; give other inputs")
    return errors
