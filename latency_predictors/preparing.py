"""Graphs turned into a runner's precision in a process of their own: one that hangs or crashes costs only itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency_predictors.isolated import Caller
from latency_predictors.runners import RunnerSpec
from latency_predictors.runners.base import Prepared, Sample
from latency_predictors.samples import read_samples, write_samples
from search_spaces.errors import UserError

_SAMPLES = "samples.safetensors"


class Preparer:
    """`Runner.prepare` of a runner by name, in another process, which stays for the next graph until :meth:`stop`.

    Parameters
    ----------
    timeout_s: longest that one graph may take.
    memory_limit_bytes: most private memory of that process, where the system has such a limit.
    """

    def __init__(self, spec: RunnerSpec, *, timeout_s: float, memory_limit_bytes: int | None = None) -> None:
        self._spec, self._timeout_s = spec, timeout_s
        self._caller = Caller(memory_limit_bytes)

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """See runners.base.Runner.prepare; the folder of the graph takes the samples meanwhile.

        Raises:
            UserError: also for a hang, a crash and whatever else the runner raises; throw the graph away then.
            OSError: as in the other process.
        """
        file = write_samples(graph.with_name(_SAMPLES), samples)
        try:
            outcome = self._caller.call(
                f"{__name__}:prepare_files",
                {"spec": self._spec.model_dump(mode="json"), "graph": str(graph), "samples": str(file)},
                timeout_s=self._timeout_s,
            )
        finally:
            file.unlink(missing_ok=True)
        if outcome.status in ("timed_out", "crashed"):
            precision = self._spec.make().precision
            raise UserError(
                f"turning the graph into {precision}: {outcome.reason}; leave it out, or measure in another"
            )
        if outcome.status != "ok":
            raise UserError(outcome.reason or outcome.status)
        if outcome.value["error"] is not None:
            number, text = outcome.value["error"]
            raise OSError(number, text)
        prepared = outcome.value["prepared"]
        return None if prepared is None else Prepared.model_validate(prepared)

    def stop(self) -> None:
        """Ends the process, so that it holds no memory while something is timed; the next graph starts another."""
        self._caller.stop()


def prepare_files(spec: dict[str, Any], graph: str, samples: str) -> dict[str, Any]:
    """The other process's side. What is wrong with the disk is no fault of the graph, so it is told apart."""
    runner = RunnerSpec.model_validate(spec).make()
    try:
        prepared = runner.prepare(Path(graph), read_samples(Path(samples)))
    except OSError as error:
        return {"prepared": None, "error": [error.errno or 0, error.strerror or str(error)]}
    return {"prepared": None if prepared is None else prepared.model_dump(mode="json"), "error": None}
