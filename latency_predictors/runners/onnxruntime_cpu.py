"""Times ONNX graphs with onnxruntime's CPU execution provider."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from latency_predictors.graphs import graph_bytes
from latency_predictors.measurement import Measurement, Precision, Recording, combine_all, cpu_name, current_conditions
from latency_predictors.runners.base import Announce, MeasureSettings, Prepared, Progress, Sample
from latency_predictors.runners.options import Cores, Flag, Threads, checked
from latency_predictors.runners.round_robin import Session, round_robin
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

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
    wait for it cannot be told from the work. With several, threads spin while they wait within a run
    (`spinning`; by default with more than one), as they do where onnxruntime is deployed: a U-Net of a
    tenth of SD 1.5's width took 215 ms with an interquartile range of 7 % so, and 271 ms with one of 17 to
    42 % where they slept. They stop at the end of each run, so that other sessions have the processor.
    `cores` pins this process to them while it measures, where the system can.
    Inputs are standard normal (integers: ones) from a fixed seed, bound once, so that a sample is the
    run alone, without Python's conversion of arrays.
    All sessions share one arena: a session keeps what its largest run took, and 97 U-Nets of 64x64
    latents with an arena each held 0.5 GB each.

    Raises:
        UserError: threads, precision or cores that are not legal here.
    """

    _provider: ClassVar[str] = "CPUExecutionProvider"
    _memory: ClassVar[str] = "cpu"
    _runtime: ClassVar[str] = "onnxruntime-cpu"
    _precisions: ClassVar[tuple[Precision, ...]] = ("float32", "w8a8", "w8a16")

    @checked
    def __init__(
        self,
        threads: Threads = 1,
        *,
        spinning: Flag | None = None,
        precision: Precision = "float32",
        cores: Cores | None = None,
    ) -> None:
        if precision not in self._precisions:
            raise UserError(
                f"precision: {precision!r} does not run on {self._runtime}; legal are {', '.join(self._precisions)}"
            )
        self._threads = threads
        self._spinning = threads > 1 if spinning is None else spinning
        self._precision: Precision = precision
        self._cores = _legal_cores(cores)
        self._placement: dict[str, dict[str, int]] = {}

    @property
    def device(self) -> str:
        """Name of the processor."""
        return cpu_name()

    @property
    def runtime(self) -> str:
        """Name of the runtime and its provider."""
        return self._runtime

    @property
    def precision(self) -> Precision:
        """Precision of the graphs (those that `prepare` made: the files decide)."""
        return self._precision

    @property
    def threads(self) -> int:
        """Intra-op threads of a run."""
        return self._threads

    @property
    def versions(self) -> dict[str, str]:
        """The version of onnxruntime."""
        import onnxruntime

        return {"onnxruntime": onnxruntime.__version__}

    @property
    def placement(self) -> dict[str, dict[str, int]]:
        """Nodes per execution provider of each subject loaded, after onnxruntime's fusions."""
        return dict(self._placement)

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """Quantises the graph for w8a8 and w8a16; see latency_predictors.cpu_quantization."""
        if self._precision not in ("w8a8", "w8a16"):
            return None
        from latency_predictors.cpu_quantization import quantize_for_cpu

        return quantize_for_cpu(graph, samples, self._precision, count_macs=True)

    def passes(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        announce: Announce | None = None,
    ) -> Iterator[dict[str, Recording]]:
        """See runners.base.Runner.passes."""
        import onnxruntime

        assert subjects, "nothing to measure"
        with _pinned(self._cores):
            runs: dict[str, Callable[[], Any]] = {}
            for name, path in subjects.items():
                if announce is not None:
                    announce(name)
                runs[name] = self._load(name, path)
            primer_path = primer or max(subjects.values(), key=graph_bytes)
            passes = round_robin(
                runs,
                settings,
                single_thread=self._threads == 1 and self._memory == "cpu",
                load_primer=lambda: self._load("primer", primer_path),
                announce=announce,
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

    def _load(self, name: str, path: Path) -> Callable[[], Any]:
        session = self._session(name, path)
        self._placement[name] = self._check_placement(name, session)
        return self._bound_run(session)

    def _session(self, name: str, path: Path) -> onnxruntime.InferenceSession:
        import onnxruntime

        _share_arena()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if not path.is_file():
            raise UserError(f"graph of {name}: {path} does not exist; export it first")
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=[self._provider])
        except Exception as error:  # onnxruntime's errors have no common base class but Exception
            reason = " ".join(str(error).split())
            raise UserError(f"graph of {name}: onnxruntime cannot load {path}: {reason}; export it again") from error

    def _check_placement(self, name: str, session: onnxruntime.InferenceSession) -> dict[str, int]:
        """Nodes per provider. A node that silently ran elsewhere would be a wrong latency: fail loudly instead."""
        counts: dict[str, int] = {}
        strays: set[str] = set()
        for part in session.get_provider_graph_assignment_info():
            nodes = part.get_nodes()
            counts[part.ep_name] = counts.get(part.ep_name, 0) + len(nodes)
            if part.ep_name != self._provider:
                strays |= {f"{node.op_type} on {part.ep_name}" for node in nodes}
        if strays or session.get_providers()[0] != self._provider:
            raise UserError(
                f"graph of {name}: {', '.join(sorted(strays)) or session.get_providers()} instead of "
                f"{self._provider}; every node must run on the measured device, replace these operators"
            )
        return counts

    def _bound_run(self, session: onnxruntime.InferenceSession) -> Callable[[], Any]:
        """A call without arguments that runs the session on fixed inputs into preallocated outputs, and waits."""
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
            binding.bind_ortvalue_input(node.name, onnxruntime.OrtValue.ortvalue_from_numpy(value, self._memory, 0))
        for node in session.get_outputs():
            binding.bind_output(node.name, self._memory)
        if self._memory == "cpu":
            return lambda: session.run_with_iobinding(binding)

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run


@cache
def _share_arena() -> None:
    """Registers, once a process, the arena that sessions with "session.use_env_allocators" take memory from."""
    import onnxruntime

    info = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(info, None)


def _legal_cores(cores: Sequence[int] | None) -> frozenset[int] | None:
    if cores is None:
        return None
    if not hasattr(os, "sched_setaffinity"):
        raise UserError(f"cores: {', '.join(map(str, cores))} cannot be pinned to on this system; leave them out")
    there = os.sched_getaffinity(0)
    for core in cores:
        if core not in there:
            raise UserError(f"cores: {core} is not one of this process; legal are {', '.join(map(str, sorted(there)))}")
    if not cores:
        raise UserError("cores: none given; give at least one, or leave the option out")
    return frozenset(cores)


@contextmanager
def _pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """Keeps this process, and the threads that it starts meanwhile, on `cores`."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
