"""What static quantisations of ONNX graphs share: inputs, ranges of activations, float references."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latency_predictors.graphs import graph_bytes
from latency_predictors.runners.base import Sample
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import onnxruntime

_MAX_GRAPH_BYTES = 2_000_000_000  # protobuf's limit, which the quantiser runs into


def check_quantisable(graph: Path, calibration: Sequence[Sample]) -> None:
    """Raises UserError: no graph there, a graph above 2 GB, no samples, or samples without inputs."""
    if not graph.is_file():
        raise UserError(f"graph {graph} does not exist; export it first")
    if graph_bytes(graph) > _MAX_GRAPH_BYTES:
        raise UserError(
            f"graph {graph.name} has {graph_bytes(graph):,} bytes; at most {_MAX_GRAPH_BYTES:,} can be quantised "
            "in one piece: export its stages one by one"
        )
    if not calibration:
        raise UserError(f"graph {graph.name}: no calibration samples; give at least one")
    if not all(calibration):
        raise UserError(f"graph {graph.name}: has no inputs to calibrate on; leave it out, or measure it in float32")


def activation_ranges(
    name: str, graph: Path, calibration: Sequence[Sample], op_types: Sequence[str], folder: Path
) -> Any:
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
def quiet_quantiser() -> Iterator[None]:
    """Silences the quantiser, which warns through the root logger of what is done on purpose here."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def relative_l2(value: ArrayLike, reference: ArrayLike) -> float:
    """||value - reference|| / ||reference||, of arrays of one shape; NaN where the reference is all zero."""
    wanted = np.asarray(reference, dtype=np.float64)
    found = np.asarray(value, dtype=np.float64)
    assert found.shape == wanted.shape
    norm = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(found - wanted)) / norm if norm else float("nan")
