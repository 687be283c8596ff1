"""Quantisation against its definition: q = round(x / s) + z, clipped, and x' = s (q - z)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from latency_predictors.qnn.quantization import QuantizationSettings, quantize_graph
from latency_predictors.quantization import open_graph, relative_l2
from latency_predictors.runners.base import Sample
from search_spaces.errors import UserError


def tensors(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(str(path)).graph.initializer}


def run(path: Path, sample: Sample) -> np.ndarray:
    output: np.ndarray = open_graph(path).run(None, dict(sample))[0]
    return output


def test_weights_are_8_bit_and_activations_16(conv_graph: Path, samples: list[Sample], tmp_path: Path) -> None:
    found = tensors(quantize_graph(conv_graph, samples, tmp_path / "q.onnx"))
    weight = tensors(conv_graph)["w"]
    low, high = min(weight.min(), 0.0), max(weight.max(), 0.0)
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    expected = np.clip(np.round(weight / scale) + zero, 0, 255)
    assert found["w_quantized"].dtype == np.uint8
    np.testing.assert_allclose(found["w_scale"], scale, rtol=1e-6)
    # A weight that lies between two steps may be rounded either way, in float32 as in float64.
    assert np.abs(found["w_quantized"].astype(int) - expected).max() <= 1
    assert (found["w_quantized"] == expected).mean() > 0.99
    assert found["x_zero_point"].dtype == np.uint16
    extremes = [f(s["x"]) for s in samples for f in (np.min, np.max)]
    np.testing.assert_allclose(found["x_scale"], (max(extremes) - min(extremes)) / 65535, rtol=1e-5)


def test_one_scale_per_output_channel(conv_graph: Path, samples: list[Sample], tmp_path: Path) -> None:
    settings = QuantizationSettings(per_channel=True)
    found = tensors(quantize_graph(conv_graph, samples, tmp_path / "q.onnx", settings))
    peaks = np.abs(tensors(conv_graph)["w"]).max(axis=(1, 2, 3))
    assert found["w_quantized"].dtype == np.int8
    assert found["w_scale"].shape == (8,)
    # Symmetric: the largest weight of a channel takes 127, or 127.5 where the tool uses -128 too.
    assert np.all((peaks / 127.5 * 0.999 <= found["w_scale"]) & (found["w_scale"] <= peaks / 127 * 1.001))


def test_errors_are_those_of_the_steps(conv_graph: Path, samples: list[Sample], tmp_path: Path) -> None:
    """8-bit weights err by s / sqrt(12) each, so a sum of 72 products errs by that share of its size."""
    weight = tensors(conv_graph)["w"]
    step = (weight.max() - weight.min()) / 255
    expected = step / np.sqrt(12) / weight.std()
    reference = run(conv_graph, samples[-1])
    error = {}
    for precision in ("w8a16", "w8a8"):
        settings = QuantizationSettings(precision=precision)
        path = quantize_graph(conv_graph, samples[:-1], tmp_path / f"{precision}.onnx", settings)
        error[precision] = relative_l2(run(path, samples[-1]), reference)
    assert 0.5 * expected < error["w8a16"] < 1.5 * expected
    assert error["w8a8"] > 1.5 * error["w8a16"]


def test_inputs_of_other_options_are_passed_over(conv_graph: Path, samples: list[Sample], tmp_path: Path) -> None:
    extra = [{**sample, "context": np.ones((1, 77, 768), np.float32)} for sample in samples]
    for name, given in (("a", samples), ("b", extra)):
        quantize_graph(conv_graph, given, tmp_path / f"{name}.onnx")
    np.testing.assert_array_equal(
        run(tmp_path / "a.onnx", samples[0]), run(tmp_path / "b.onnx", samples[0]), strict=True
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no calibration samples"),
        ([{"z": np.ones(3, np.float32)}], "input 'x' is missing; given are z"),
        (
            [{"x": np.ones((1, 8, 4, 4), np.float32)}],
            r"input 'x' has shape \[1, 8, 4, 4\]; it must be \[1, 8, 16, 16\]",
        ),
        ([{"x": np.full((1, 8, 16, 16), np.nan, np.float32)}], "input 'x' holds values that are not finite"),
    ],
)
def test_samples_that_do_not_fit(conv_graph: Path, tmp_path: Path, bad: list[Sample], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        quantize_graph(conv_graph, bad, tmp_path / "q.onnx")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["conv.onnx"]


def test_a_graph_that_is_not_there(tmp_path: Path, samples: list[Sample]) -> None:
    with pytest.raises(UserError, match=r"none\.onnx does not exist; export it first"):
        quantize_graph(tmp_path / "none.onnx", samples, tmp_path / "q.onnx")
