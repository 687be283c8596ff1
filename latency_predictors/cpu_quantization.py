"""Static W8A8 and W8A16 quantisation of an ONNX graph for onnxruntime's CPU provider."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latency_predictors.executed_macs import run_and_count
from latency_predictors.quantization import (
    activation_ranges,
    check_quantisable,
    fitting_inputs,
    open_graph,
    quiet_quantiser,
    relative_l2,
)
from latency_predictors.runners.base import Prepared, Sample
from search_spaces.errors import UserError


def quantize_for_cpu(
    graph: Path, samples: Sequence[Sample], precision: Literal["w8a8", "w8a16"], *, count_macs: bool = False
) -> Prepared:
    """Replaces a float32 graph by its quantised copy (QuantizeLinear and DequantizeLinear pairs), and looks at it.

    Weights are int8, symmetric, a scale per output channel; activations uint8 or uint16 with a zero point,
    their ranges the extremes over `samples` (inputs that the graph does not have are passed over). The
    file is complete or as it was. `error_l2` is by this machine's onnxruntime, on inputs that were drawn anew with the
    samples' mean and spread: nothing was calibrated on them.

    `count_macs`: also count the MACs in integer kernels, those of this machine's onnxruntime, so only where
    the graph is measured with it. Its CPU provider has integer kernels for W8A8; for W8A16 it has none and computes in
    floating point between the pairs: `integer_macs_share` says so, for each graph.

    Raises:
        UserError: no graph there, a graph above 2 GB, no samples, a sample that does not fit the graph, or an output
            that is not finite after quantisation.

    Source: onnxruntime.quantization; symmetric per-channel weights as in Wu et al., arXiv 2004.09602, section 3.
    """
    from onnxruntime import GraphOptimizationLevel
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import save_tensors_data
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
    from onnxruntime.tools.onnx_model_utils import optimize_model

    check_quantisable(graph, samples)
    op_types = sorted(QLinearOpsRegistry.keys() | QDQRegistry.keys())
    with tempfile.TemporaryDirectory(dir=graph.parent, prefix=".quantize-") as scratch, quiet_quantiser():
        folder = Path(scratch)
        # Folds constants first: what is a node in the exporter's file would be taken for an activation.
        ready = folder / "ready.onnx"
        optimize_model(graph, ready, GraphOptimizationLevel.ORT_ENABLE_BASIC)
        ranges = folder / "ranges.json"
        save_tensors_data(activation_ranges(graph.name, ready, samples, op_types, folder), ranges)
        quantised = folder / "quantised.onnx"
        quantize_static(
            str(ready),
            str(quantised),
            None,
            calibrate_method=CalibrationMethod.MinMax,
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt16 if precision == "w8a16" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=op_types,
            per_channel=True,
            # opset 17 has no 16-bit QuantizeLinear: contrib operators are what the CPU provider runs.
            extra_options={"UseQDQContribOps": precision == "w8a16"},
            calibration_cache_path=ranges,
        )
        reference = open_graph(graph)
        sample = another(fitting_inputs(graph.name, reference, samples[0]))
        names = [node.name for node in reference.get_outputs()]
        wanted = dict(zip(names, reference.run(names, sample), strict=True))
        integer: dict[str, int] = {}
        floating: dict[str, int] = {}
        if count_macs:
            found, integer, floating = run_and_count(quantised, sample, folder)
        else:
            found = dict(zip(names, open_graph(quantised).run(names, sample), strict=True))
        for name in names:
            for values, what in ((wanted[name], "in float32"), (found[name], f"in {precision}")):
                if not np.isfinite(values).all():
                    raise UserError(
                        f"graph {graph.name}: output {name!r} is not finite {what}; leave it out, or measure it "
                        "in another precision"
                    )
        os.replace(quantised, graph)
    total = sum(integer.values()) + sum(floating.values())
    errors = {name: relative_l2(found[name], wanted[name]) for name in names}
    return Prepared(
        settings={
            "tool": "onnxruntime.quantization",
            "weights": "int8",
            "activations": "uint16" if precision == "w8a16" else "uint8",
            "per_channel": True,
            "calibration": "minmax",
        },
        integer_macs_share=sum(integer.values()) / total if total else None,
        float_macs=floating,
        error_l2={name: error for name, error in errors.items() if error >= 0},  # NaN: an output that is all zero
    )


def another(sample: Sample) -> dict[str, NDArray[Any]]:
    """Inputs like these that are others: normal with the mean and spread of each; integers and single numbers stay."""
    rng = np.random.default_rng(1)
    drawn = {}
    for name, value in sample.items():
        is_drawn = np.issubdtype(value.dtype, np.floating) and value.size > 1
        mean, spread = (float(value.mean()), float(value.std())) if is_drawn else (0.0, 0.0)
        drawn[name] = rng.normal(mean, spread, value.shape).astype(value.dtype) if is_drawn else value
    return drawn
