"""Times ONNX graphs with onnxruntime's CUDA execution provider: the CPU's runner with another provider."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from latency_predictors.measurement import Precision
from latency_predictors.runners.base import Prepared, Sample
from latency_predictors.runners.onnxruntime_cpu import OnnxRuntimeRunner
from latency_predictors.runners.options import Cores, Flag, Threads, checked
from search_spaces.errors import UserError


class CudaRunner(OnnxRuntimeRunner):
    """Runner (see runners.base) for the first NVIDIA GPU of this machine.

    Inputs and outputs stay in the GPU's memory, and a run ends when the GPU has: what is timed is wall time
    of the work, not of its submission. The GPU's own caches are left as the run before left them.

    Raises:
        UserError: this onnxruntime has no CUDA provider.
    """

    _provider: ClassVar[str] = "CUDAExecutionProvider"
    _memory: ClassVar[str] = "cuda"
    _runtime: ClassVar[str] = "onnxruntime-cuda"
    _precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16")

    @checked
    def __init__(
        self,
        threads: Threads = 1,
        *,
        spinning: Flag | None = None,
        precision: Precision = "float32",
        cores: Cores | None = None,
    ) -> None:
        import onnxruntime

        there = onnxruntime.get_available_providers()
        if self._provider not in there:
            raise UserError(
                f"runner onnxruntime-cuda: this onnxruntime has no {self._provider} (it has {', '.join(there)}); "
                "install onnxruntime-gpu on a machine with an NVIDIA GPU"
            )
        super().__init__(threads, spinning=spinning, precision=precision, cores=cores)

    @property
    def device(self) -> str:
        """Name of the GPU."""
        return _nvidia("name") or "NVIDIA GPU"

    @property
    def versions(self) -> dict[str, str]:
        """Versions of onnxruntime and of the GPU's driver."""
        driver = _nvidia("driver_version")
        return super().versions | ({} if driver is None else {"nvidia_driver": driver})

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """Converts the graph to float16, inputs and outputs included, if that is the precision."""
        if self._precision != "float16":
            return None
        import os

        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16

        part = graph.with_name(f".{graph.name}.half")
        onnx.save(convert_float_to_float16(onnx.load(str(graph)), keep_io_types=False), str(part))
        os.replace(part, graph)
        return Prepared(settings={"tool": "onnxruntime.transformers.float16", "inputs_and_outputs": "float16"})


def _nvidia(field: str) -> str | None:
    """A field of the first GPU as nvidia-smi tells it."""
    try:
        found = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    lines = found.stdout.strip().splitlines()
    return lines[0].strip() if lines else None
