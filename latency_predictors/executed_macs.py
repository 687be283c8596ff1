"""Which kernels of onnxruntime multiply: MACs by operator, from one profiled run of a graph."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from latency_predictors.runners.base import Sample
from search_spaces.errors import UserError

Shapes = Sequence[Sequence[int]]


def _convolution(inputs: Shapes, output: Sequence[int], weight: int) -> int:
    """Output elements times the weights (C_out, C_in / groups, ...) of one of them; activations in any layout."""
    return math.prod(output) * math.prod(inputs[weight][1:])


def _product(inputs: Shapes, output: Sequence[int], weight: int) -> int:
    """Of (bA, M, K) and (bB, K, N), either transposed, to (b, M, N): b M K N, which is sqrt(|A| |B| |out| b / (bA bB)).

    Shapes alone do not say which factor is transposed; the sizes do not need to know.
    """
    a, b = inputs[0], inputs[weight]
    batch_a, batch_b, batch = (math.prod(shape[:-2]) for shape in (a, b, output))
    return math.isqrt(math.prod(a) * math.prod(b) * math.prod(output) * batch // (batch_a * batch_b))


def _packed_product(inputs: Shapes, output: Sequence[int], weight: int) -> int:
    """Output elements times the last dimension of the first factor; the second is packed."""
    return math.prod(output) * inputs[0][-1]


_Count = Callable[[Shapes, Sequence[int], int], int]
_FLOAT: dict[str, tuple[_Count, int]] = {
    "Conv": (_convolution, 1),
    "FusedConv": (_convolution, 1),
    "NhwcFusedConv": (_convolution, 1),
    "MatMul": (_product, 1),
    "FusedMatMul": (_product, 1),
    "Gemm": (_product, 1),
    "FusedGemm": (_product, 1),
    "MatMulNBits": (_packed_product, 1),  # 8-bit weights, floating-point products
}
_INTEGER: dict[str, tuple[_Count, int]] = {
    "QLinearConv": (_convolution, 3),
    "ConvInteger": (_convolution, 1),
    "QLinearMatMul": (_product, 3),
    "QGemm": (_product, 3),
    "MatMulInteger": (_product, 1),
    "MatMulIntegerToFloat": (_product, 1),
    "DynamicQuantizeMatMul": (_product, 1),
}
_UNCOUNTED = ("Attention", "QAttention", "MultiHeadAttention", "Einsum", "ConvTranspose", "QLinearConvTranspose")


def run_and_count(
    graph: Path, sample: Sample, folder: Path
) -> tuple[dict[str, NDArray[Any]], dict[str, int], dict[str, int]]:
    """Runs a graph once on the CPU, optimised as it is when measured, but for blocked layouts; on one thread.

    Returns
    -------
    outputs (name -> array), MACs of integer kernels and MACs of floating-point kernels (operator -> MACs).

    Raises UserError for an operator that multiplies and is not in the tables: nothing unknown costs zero.
    `folder` takes the profile for the time of the call.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    # A prepacked weight is no longer among the inputs whose shapes the profile states.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # In blocked layouts channels are padded, and the profile's shapes with them.
    session = onnxruntime.InferenceSession(
        str(graph), options, providers=["CPUExecutionProvider"], disabled_optimizers=["NchwcTransformer"]
    )
    names = [node.name for node in session.get_outputs()]
    taken = {node.name: sample[node.name] for node in session.get_inputs()}
    outputs = dict(zip(names, session.run(names, taken), strict=True))
    profile = Path(session.end_profiling())
    events = json.loads(profile.read_text(encoding="utf-8"))
    profile.unlink()
    integer: dict[str, int] = {}
    floating: dict[str, int] = {}
    for event in events:
        if not event.get("name", "").endswith("_kernel_time"):
            continue
        args = event["args"]
        operator = args["op_name"]
        if operator in _UNCOUNTED:
            raise UserError(f"graph {graph.name}: MACs of operator {operator} are not counted; export it another way")
        for table, macs in ((_INTEGER, integer), (_FLOAT, floating)):
            if operator in table:
                count, weight = table[operator]
                inputs, output = _shapes(args["input_type_shape"]), _shapes(args["output_type_shape"])[0]
                macs[operator] = macs.get(operator, 0) + count(inputs, output, weight)
    return outputs, integer, floating


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> list[Sequence[int]]:
    return [next(iter(tensor.values())) for tensor in described]
