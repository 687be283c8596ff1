"""Static W8A16 quantisation of an ONNX graph for the Hexagon NPU, calibrated on the graph's own inputs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from latency_predictors.quantization import activation_ranges, check_quantisable, quiet_quantiser
from latency_predictors.runners.base import Sample


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
    check_quantisable(graph, calibration)

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".quantize-") as scratch, quiet_quantiser():
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
        save_tensors_data(
            activation_ranges(graph.name, ready, calibration, config.op_types_to_quantize, folder), ranges
        )
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
