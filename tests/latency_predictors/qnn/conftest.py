from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_predictors.runners.base import Sample


@pytest.fixture
def conv_graph(tmp_path: Path) -> Path:
    """x (1, 8, 16, 16), convolved 3x3, biased, through a ReLU: y of the same shape."""
    return write_conv(tmp_path / "conv.onnx", "Relu", [1, 8, 16, 16])


@pytest.fixture
def unsupported_graph(tmp_path: Path) -> Path:
    """The same with determinants at the end, which no NPU takes."""
    return write_conv(tmp_path / "det.onnx", "Det", [1, 8])


def write_conv(path: Path, last: str, shape: list[int]) -> Path:
    rng = np.random.default_rng(0)
    weight = rng.uniform(-0.1, 0.1, (8, 8, 3, 3)).astype(np.float32)
    bias = rng.uniform(-0.1, 0.1, 8).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4, name="conv"),
            helper.make_node(last, ["c"], ["y"], name="last"),
        ],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def samples() -> list[Sample]:
    """Three inputs of the graphs above."""
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 8, 16, 16)).astype(np.float32)} for _ in range(3)]
