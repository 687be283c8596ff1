"""Static W8A16 quantisation of an ONNX graph for the Hexagon NPU, calibrated on the graph's own inputs."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from latency_predictors.graphs import graph_bytes
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

Sample = Mapping[str, NDArray[Any]]
"""One set of inputs of a graph: name -> array."""

_MAX_GRAPH_BYTES = 2_000_000_000  # protobuf's limit, which the quantiser runs into


class QuantizationSettings(BaseModel):
    """How a graph is quantised.

    precision: "w8a16" (8-bit weights, 16-bit activations, as NanoSD and AI Hub deploy SD) or "w8a8".
    per_channel: one scale per output channel of a convolution's weights, which are then symmetric,
        rather than one per tensor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    precision: Literal["w8a16", "w8a8"] = "w8a16"
    per_channel: bool = False


def quantize_graph(
    graph: Path, calibration: Sequence[Sample], out: Path, settings: QuantizationSettings | None = None
) -> Path:
    """Writes a quantised copy of a float32 graph (QuantizeLinear and DequantizeLinear pairs) and returns its path.

    Ranges of activations are the extremes over `calibration` (at least one sample; arrays of the graph's
    input shapes; inputs that the graph does not have are passed over, because an option without
    attention has no text context). Erf sequences become Gelu, which the NPU has as one operator.

    Raises:
        UserError: no graph there, a graph above 2 GB, no samples, or a sample that does not fit the graph.

    Source: onnxruntime.quantization.execution_providers.qnn.
    """
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.calibrate import save_tensors_data
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model
    from onnxruntime.tools.onnx_model_utils import optimize_model

    settings = settings or QuantizationSettings()
    if not graph.is_file():
        raise UserError(f"graph {graph} does not exist; export it first")
    if graph_bytes(graph) > _MAX_GRAPH_BYTES:
        raise UserError(
            f"graph {graph.name} has {graph_bytes(graph):,} bytes; at most {_MAX_GRAPH_BYTES:,} can be quantised "
            "in one piece: export its stages one by one"
        )
    if not calibration:
        raise UserError(f"graph {graph.name}: no calibration samples; give at least one")

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quantize-") as scratch, _quiet():
        folder = Path(scratch)
        # Folds constants first: the exporter writes shapes and shared weights as nodes, which the
        # quantiser would take for activations.
        plain = folder / "plain.onnx"
        optimize_model(graph, plain, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        ready = folder / "ready.onnx"
        if not qnn_preprocess_model(plain, ready):
            ready = plain
        config = get_qnn_qdq_config(
            ready,
            None,
            activation_type=QuantType.QUInt16 if settings.precision == "w8a16" else QuantType.QUInt8,
            weight_type=QuantType.QInt8 if settings.per_channel else QuantType.QUInt8,
            per_channel=settings.per_channel,
        )
        ranges = folder / "ranges.json"
        save_tensors_data(_ranges(graph.name, ready, calibration, config.op_types_to_quantize, folder), ranges)
        quantize_static(
            str(ready),
            str(folder / "quantized.onnx"),
            None,
            calibrate_method=config.calibrate_method,
            quant_format=config.quant_format,
            activation_type=config.activation_type,
            weight_type=config.weight_type,
            op_types_to_quantize=config.op_types_to_quantize,
            nodes_to_exclude=config.nodes_to_exclude,
            per_channel=config.per_channel,
            extra_options=config.extra_options,
            calibration_cache_path=ranges,
        )
        os.replace(folder / "quantized.onnx", out)
    return out


def _ranges(name: str, graph: Path, calibration: Sequence[Sample], op_types: Sequence[str], folder: Path) -> Any:
    """Extremes of every activation over the samples, as onnxruntime's `TensorsData`.

    With the calibrater's own session every activation is kept until the end, because its reductions run
    last: two transformer blocks at 64x64 took 6.6 GB. This order runs them as soon as they can.
    """
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader
    from onnxruntime.quantization.calibrate import MinMaxCalibrater

    class Calibrater(MinMaxCalibrater):
        def create_inference_session(self) -> None:
            options = _one_thread()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
            options.enable_cpu_mem_arena = False
            self.infer_session = onnxruntime.InferenceSession(
                self.augmented_model_path, options, providers=["CPUExecutionProvider"]
            )

    calibrater = Calibrater(graph, op_types, augmented_model_path=str(folder / "augmented.onnx"))
    calibrater.augment_graph()
    calibrater.create_inference_session()
    samples = iter([fitting_inputs(name, calibrater.infer_session, sample) for sample in calibration])

    class Reader(CalibrationDataReader):
        def get_next(self) -> Sample | None:
            return next(samples, None)

    calibrater.collect_data(Reader())
    found = calibrater.compute_data()
    for tensor, data in found.items():
        low, high = data.range_value
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise UserError(f"graph {name}: {tensor!r} is not finite on the calibration samples; mend the weights")
    return found


def _one_thread() -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


def open_graph(graph: Path) -> onnxruntime.InferenceSession:
    """A session on this machine's CPU, one thread, for float references and for checking inputs."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(graph), _one_thread(), providers=["CPUExecutionProvider"])


def fitting_inputs(name: str, session: onnxruntime.InferenceSession, sample: Sample) -> dict[str, NDArray[Any]]:
    """The part of a sample that a session takes.

    Raises:
        UserError: a missing input, another shape, or values that are not finite.
    """
    taken: dict[str, NDArray[Any]] = {}
    for node in session.get_inputs():
        if node.name not in sample:
            raise UserError(f"graph {name}: input {node.name!r} is missing; given are {', '.join(sample) or 'none'}")
        value = np.asarray(sample[node.name])
        if list(value.shape) != list(node.shape):
            raise UserError(
                f"graph {name}: input {node.name!r} has shape {list(value.shape)}; it must be {list(node.shape)}"
            )
        if not np.isfinite(value).all():
            raise UserError(f"graph {name}: input {node.name!r} holds values that are not finite; give finite ones")
        taken[node.name] = value
    return taken


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the quantiser, which warns through the root logger of what is done on purpose here."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
