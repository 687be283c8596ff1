"""Times ONNX graphs with onnxruntime's CPU execution provider."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_predictors.graphs import graph_bytes
from latency_predictors.measurement import Measurement, Precision, Recording, combine_all, cpu_name, current_conditions
from latency_predictors.runners.base import MeasureSettings, Progress
from latency_predictors.runners.round_robin import Session, round_robin
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

_PROVIDER = "CPUExecutionProvider"
_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeRunner:
    """Runner (see runners.base) for the CPU of this machine.

    One thread by default: a second one on a shared machine makes a run slower, not faster, and the
    wait for it cannot be told from the work. Idle threads do not spin unless `spinning`, since that
    would take the processor from the other sessions of the same round.
    Inputs are standard normal (integers: ones) from a fixed seed, bound once, so that a sample is the
    run alone, without Python's conversion of arrays.
    """

    def __init__(self, threads: int = 1, *, spinning: bool = False, precision: Precision = "float32") -> None:
        if threads < 1:
            raise UserError(f"threads: {threads} is not legal; give 1 or more")
        self._threads = threads
        self._spinning = spinning
        self._precision: Precision = precision

    @property
    def device(self) -> str:
        """Name of the processor."""
        return cpu_name()

    @property
    def runtime(self) -> str:
        """Name of the runtime and its provider."""
        return "onnxruntime-cpu"

    @property
    def precision(self) -> Precision:
        """Precision of the graphs (declared by the caller: the files decide)."""
        return self._precision

    @property
    def threads(self) -> int:
        """Intra-op threads of a run."""
        return self._threads

    def passes(
        self, subjects: Mapping[str, Path], settings: MeasureSettings, primer: Path | None = None
    ) -> Iterator[dict[str, Recording]]:
        """See runners.base.Runner.passes."""
        import onnxruntime

        assert subjects, "nothing to measure"
        runs = {name: _bound_run(self._session(name, path)) for name, path in subjects.items()}
        primer_path = primer or max(subjects.values(), key=graph_bytes)
        passes = round_robin(
            runs,
            settings,
            single_thread=self._threads == 1,
            load_primer=lambda: _bound_run(self._session("primer", primer_path)),
        )
        while True:
            pass_id = time.time_ns()
            conditions = current_conditions(onnxruntime.__version__, self._spinning)
            yield {
                name: Recording(
                    subject=name,
                    pass_id=pass_id,
                    device=self.device,
                    runtime=self.runtime,
                    precision=self._precision,
                    threads=self._threads,
                    wall_ms=tuple(samples.wall_ms),
                    cpu_ms=tuple(samples.cpu_ms),
                    conditions=conditions,
                )
                for name, samples in next(passes).items()
            }

    def measure(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        on_progress: Progress | None = None,
    ) -> dict[str, Measurement]:
        """See runners.base.Runner.measure."""
        session: Session | None = None
        for recordings in self.passes(subjects, settings, primer):
            # The clock starts with the first pass: loading is not measuring.
            session = session or Session(len(subjects), settings)
            session.add(recordings)
            if on_progress is not None:
                on_progress(len(subjects), len(subjects), f"round {session.num_rounds}")
            if session.is_over:
                break
        assert session is not None
        return combine_all(session.recordings)

    def _session(self, name: str, path: Path) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not path.is_file():
            raise UserError(f"graph of {name}: {path} does not exist; export it first")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[_PROVIDER])
        except Exception as error:  # onnxruntime's errors have no common base class but Exception
            reason = " ".join(str(error).split())
            raise UserError(f"graph of {name}: onnxruntime cannot load {path}: {reason}; export it again") from error
        _check_placement(name, session)
        return session


def _check_placement(name: str, session: onnxruntime.InferenceSession) -> None:
    """A node that silently ran elsewhere would be a wrong latency: fail loudly instead."""
    strays = sorted(
        {
            f"{node.op_type} on {part.ep_name}"
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != _PROVIDER
            for node in part.get_nodes()
        }
    )
    if strays or session.get_providers() != [_PROVIDER]:
        raise UserError(
            f"graph of {name}: {', '.join(strays) or session.get_providers()} instead of {_PROVIDER}; "
            "every node must run on the measured device, replace these operators"
        )


def _bound_run(session: onnxruntime.InferenceSession) -> Callable[[], Any]:
    """A call without arguments that runs the session on fixed inputs into preallocated outputs."""
    import onnxruntime

    rng = np.random.default_rng(0)
    binding = session.io_binding()
    value: np.ndarray
    for node in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in node.shape]
        dtype = _NUMPY_TYPES.get(node.type)
        if dtype is None:
            raise UserError(
                f"graph input {node.name}: type {node.type} is not known; "
                f"legal are {', '.join(_NUMPY_TYPES)}; export the graph with one of them"
            )
        if np.issubdtype(dtype, np.floating):
            value = rng.standard_normal(shape).astype(dtype)
        else:
            value = np.ones(shape).astype(dtype)
        binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(value))
    for node in session.get_outputs():
        binding.bind_output(node.name, "cpu")
    return lambda: session.run_with_iobinding(binding)
