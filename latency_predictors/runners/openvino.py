"""Times ONNX graphs with OpenVINO (extra `openvino`)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from latency_predictors.graphs import graph_bytes
from latency_predictors.measurement import Measurement, Precision, Recording, combine_all, cpu_name, current_conditions
from latency_predictors.runners.base import Announce, MeasureSettings, Prepared, Progress, Sample
from latency_predictors.runners.options import Threads, checked
from latency_predictors.runners.round_robin import Session, round_robin
from search_spaces.errors import UserError, shown

# What is not quantised in a w8a8 graph runs in float32.
_HINTS: Mapping[Precision, str] = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "w8a8": "f32"}
_TYPES: Mapping[str, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_INTEGERS = ("i8", "u8")
_NO_OPERATORS = ("Const", "Input", "Output")
_VIRTUAL = ("AUTO", "MULTI", "HETERO", "BATCH")
_TELEMETRY = "openvino_telemetry"


class OpenVinoRunner:
    """Runner (see runners.base) for a device of OpenVINO: one stream, tuned for latency, nothing cached on disk.

    The precision is pinned: left to itself OpenVINO runs float32 graphs in bfloat16 or half precision where the
    hardware has it. Inputs are standard normal (integers: ones) from a fixed seed. On the CPU with one thread a
    run stays on the calling thread, which is not bound to a core by OpenVINO: who measures decides that.

    Parameters
    ----------
    device: OpenVINO's name of a device ("CPU", "GPU.0", "NPU"). AUTO, MULTI, HETERO and BATCH choose devices
        themselves and are refused.
    precision: "float32", "float16", "bfloat16", or "w8a8" (graphs with QuantizeLinear and DequantizeLinear).

    Raises:
        UserError: an option that is not legal here, or the extra is not installed.
    """

    @checked
    def __init__(self, device: str = "CPU", *, threads: Threads = 1, precision: Precision = "float32") -> None:
        if precision not in _HINTS:
            raise UserError(f"precision: {shown(precision)} does not run on OpenVINO; legal are {', '.join(_HINTS)}")
        self._core = _openvino().Core()
        legal = list(self._core.available_devices)
        known = {*legal, *(name.partition(".")[0] for name in legal)}
        if device not in known:
            why = "leaves the choice to OpenVINO" if device.startswith(_VIRTUAL) else "is not here"
            raise UserError(f"device: {shown(device)} {why}; legal are {', '.join(legal)}")
        self._device = device
        self._threads, self._precision = threads, precision
        self._placement: dict[str, dict[str, int]] = {}

    @property
    def device(self) -> str:
        """Name of the hardware."""
        return cpu_name() if self._on_cpu else str(self._core.get_property(self._device, "FULL_DEVICE_NAME"))

    @property
    def runtime(self) -> str:
        """Name of the runtime and its device."""
        return f"openvino-{self._device.lower()}"

    @property
    def precision(self) -> Precision:
        """Precision of the graphs."""
        return self._precision

    @property
    def threads(self) -> int:
        """Threads of a run (of the CPU's part, where the device is another)."""
        return self._threads

    @property
    def versions(self) -> dict[str, str]:
        """The version of OpenVINO."""
        return {"openvino": str(_openvino().get_version())}

    @property
    def placement(self) -> dict[str, dict[str, int]]:
        """Operators of each subject loaded, after OpenVINO's fusions: all on the one device."""
        return dict(self._placement)

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        """Quantises the graph for w8a8; see latency_predictors.cpu_quantization."""
        if self._precision != "w8a8":
            return None
        from latency_predictors.cpu_quantization import quantize_for_cpu

        return quantize_for_cpu(graph, samples, self._precision)

    def passes(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        announce: Announce | None = None,
    ) -> Generator[dict[str, Recording], None, None]:
        """See runners.base.Runner.passes."""
        assert subjects, "nothing to measure"
        runs: dict[str, Callable[[], Any]] = {}
        for name, path in subjects.items():
            if announce is not None:
                announce(name)
            compiled = self._compile(name, path)
            self._placement[name] = self._check_execution(name, compiled)
            runs[name] = _bound_run(compiled)
        primer_path = primer or max(subjects.values(), key=graph_bytes)
        passes = round_robin(
            runs,
            settings,
            single_thread=self._threads == 1 and self._on_cpu,
            load_primer=lambda: _bound_run(self._compile("primer", primer_path)),
            announce=announce,
        )
        version = self.versions["openvino"]
        while True:
            pass_id = time.time_ns()
            conditions = current_conditions(version, spinning=False)
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
        with closing(self.passes(subjects, settings, primer)) as passes:
            for recordings in passes:
                # The clock starts with the first pass: loading is not measuring.
                session = session or Session(len(subjects), settings)
                session.add(recordings)
                if on_progress is not None:
                    on_progress(len(subjects), len(subjects), f"round {session.num_rounds}")
                if session.is_over:
                    break
        assert session is not None
        return combine_all(session.recordings)

    @property
    def _on_cpu(self) -> bool:
        return self._device == "CPU"

    def _compile(self, name: str, path: Path) -> Any:
        if not path.is_file():
            raise UserError(f"graph of {name}: {path} does not exist; export it first")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
        }
        if self._on_cpu:
            settings |= {"INFERENCE_NUM_THREADS": str(self._threads), "ENABLE_CPU_PINNING": "NO"}
        _openvino()
        from openvino.frontend import FrontEndManager

        try:
            # By name: asked for any, OpenVINO tries every format it knows, and they print what they think of it.
            frontend = FrontEndManager().load_by_framework("onnx")
            model = frontend.convert(frontend.load(str(path)))
            return self._core.compile_model(model, self._device, settings)
        except Exception as error:  # its errors have no common base class but Exception
            lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
            raise UserError(
                f"graph of {name}: OpenVINO cannot load {path} for {self._device}: {lines[-1] if lines else error}; "
                "export it again, or leave it out"
            ) from error

    def _check_execution(self, name: str, compiled: Any) -> dict[str, int]:
        """Operators by device. Another device or precision than asked for would be a wrong latency: UserError."""
        devices = [str(device) for device in compiled.get_property("EXECUTION_DEVICES")]
        if [device for device in devices if device != self._device and not device.startswith(f"{self._device}.")]:
            raise UserError(
                f"graph of {name}: would run on {', '.join(devices)} instead of {self._device}; measure on one of these"
            )
        found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        wanted = _HINTS[self._precision]
        if found != wanted:
            raise UserError(
                f"precision: {self._precision} was asked of {self.device}, which runs {_TYPES.get(found, found)}"
                ", not that; measure in a precision that it has"
            )
        nodes = [_text(node.get_rt_info()) for node in compiled.get_runtime_model().get_ops()]
        operators = [node for node in nodes if node.get("layerType") not in _NO_OPERATORS]
        if (
            self._on_cpu
            and self._precision == "w8a8"
            and not any(node.get("runtimePrecision") in _INTEGERS for node in operators)
        ):
            raise UserError(
                f"graph of {name}: no operator of it would run in 8 bits; give a graph with QuantizeLinear and "
                "DequantizeLinear around its convolutions and matrix products"
            )
        return {self._device: len(operators)}


def _text(information: Any) -> dict[str, str]:
    return {key: str(information[key].value) for key in ("layerType", "runtimePrecision") if key in information}


def _bound_run(compiled: Any) -> Callable[[], Any]:
    """A call without arguments that runs the graph on fixed inputs."""
    rng = np.random.default_rng(0)
    request = compiled.create_infer_request()
    for port in compiled.inputs:
        shape = [size.get_length() if size.is_static else 1 for size in port.get_partial_shape()]
        dtype = port.get_element_type().to_dtype()
        normal = np.issubdtype(dtype, np.floating)
        value = rng.standard_normal(shape).astype(dtype) if normal else np.ones(shape, dtype)
        request.set_tensor(port, _openvino().Tensor(value))
    # Outputs are looked at in place: copying them is no part of a run.
    return lambda: request.infer(None, share_outputs=True)


def _openvino() -> ModuleType:
    """The package, without its telemetry; UserError if it is not installed.

    Importing it sends an event, and writes an id into the home directory, where the package of its telemetry is
    installed, as pip does. Without that package it does neither.
    """
    if (loaded := sys.modules.get("openvino")) is not None:
        return loaded
    there = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"runner openvino: OpenVINO is not installed ({error}); install it with pip install 'nanosd-nas[openvino]'"
        ) from None
    finally:
        del sys.modules[_TELEMETRY]
        if there is not None:
            sys.modules[_TELEMETRY] = there
    package: ModuleType = openvino
    return package
