from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from latency_predictors.cpu_quantization import another, quantize_for_cpu
from latency_predictors.executed_macs import run_and_count
from latency_predictors.graphs import export_onnx
from search_spaces.errors import UserError

# What the module below multiplies, by hand: output elements times what each is the sum of.
CONV = 16 * 16 * 8 * (4 * 3 * 3)
LINEAR = 256 * 8 * 8
PRODUCT = 256 * 256 * 8


class Layers(nn.Module):
    """A convolution, a linear layer, and the product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.linear = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        return self.linear(rows) @ rows.transpose(1, 2)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 16, 16)
    path = export_onnx(Layers().eval(), (x,), tmp_path_factory.mktemp("layers") / "layers.onnx", ("x",), ("y",))
    return path, {"x": x.numpy()}


@pytest.fixture
def graph(tmp_path: Path, exported: tuple[Path, dict[str, np.ndarray]]) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path / "layers.onnx"
    shutil.copy(exported[0], path)
    return path, exported[1]


def test_macs_are_those_of_a_count_by_hand(graph: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> None:
    path, sample = graph
    _, integer, floating = run_and_count(path, sample, tmp_path)
    assert integer == {}
    assert sum(floating.values()) == CONV + LINEAR + PRODUCT
    quantize_for_cpu(path, [sample], "w8a8")
    _, integer, floating = run_and_count(path, sample, tmp_path)
    assert floating == {}
    assert sum(integer.values()) == CONV + LINEAR + PRODUCT
    assert integer["QLinearConv"] == CONV


@pytest.mark.parametrize(("precision", "share", "error"), [("w8a8", 1.0, 0.1), ("w8a16", 0.0, 0.1)])
def test_a_quantised_graph_is_near_the_original(
    graph: tuple[Path, dict[str, np.ndarray]], precision: str, share: float, error: float
) -> None:
    path, sample = graph
    other = another(sample)
    assert other["x"].shape == sample["x"].shape and not np.isin(other["x"], sample["x"]).any()
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, other)[0]
    prepared = quantize_for_cpu(path, [sample], precision, count_macs=True)  # type: ignore[arg-type]
    found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, other)[0]
    distance = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    assert 0 < distance < error
    assert prepared.error_l2["y"] == pytest.approx(distance, rel=0.05)
    assert prepared.integer_macs_share == share
    assert sum(prepared.float_macs.values()) == (1 - share) * (CONV + LINEAR + PRODUCT)
    model = onnx.load(str(path))
    kinds = {weight.name: weight.data_type for weight in model.graph.initializer}
    weights = [kinds[n.input[0]] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in kinds]
    assert weights.count(onnx.TensorProto.INT8) == 2, "the convolution's and the linear layer's weights are int8"


def test_another_runtimes_integer_kernels_are_not_told(graph: tuple[Path, dict[str, np.ndarray]]) -> None:
    prepared = quantize_for_cpu(graph[0], [graph[1]], "w8a8")
    assert (prepared.integer_macs_share, prepared.float_macs) == (None, {})
    assert prepared.error_l2["y"] > 0


def test_an_output_that_is_no_number_is_refused(tmp_path: Path) -> None:
    """|x| of 1e-6 beside 1: float32 has its logarithm, 8 bits make it that of zero."""
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [64, 64]) for n in ("x", "y")]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Abs", ["a"], ["b"])]
    nodes.append(helper.make_node("Log", ["b"], ["y"]))
    path = tmp_path / "log.onnx"
    model = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(model, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    before = path.read_bytes()
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    with pytest.raises(UserError, match="output 'y' is not finite in w8a8; leave it out"):
        quantize_for_cpu(path, [{"x": x}], "w8a8")
    assert path.read_bytes() == before


def test_no_samples_and_no_graph_are_refused(tmp_path: Path, graph: tuple[Path, dict[str, np.ndarray]]) -> None:
    with pytest.raises(UserError, match="no calibration samples"):
        quantize_for_cpu(graph[0], [], "w8a8")
    with pytest.raises(UserError, match="does not exist"):
        quantize_for_cpu(tmp_path / "none.onnx", [graph[1]], "w8a8")


def test_a_refused_quantisation_leaves_the_graph(graph: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, sample = graph
    before = path.read_bytes()
    with pytest.raises(UserError, match="shape"):
        quantize_for_cpu(path, [{"x": sample["x"][:, :2]}], "w8a8")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
