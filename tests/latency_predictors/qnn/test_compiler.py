"""Qualcomm's compiler and emulator on small graphs, in processes of their own as always."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from latency_predictors import isolated
from latency_predictors.qnn import CompileSettings, find_soc, quantize_graph, toolchain, write_samples
from latency_predictors.qnn.compiler import binary_path, compile_graph, emulate
from latency_predictors.quantization import open_graph
from latency_predictors.runners.base import MeasureSettings, Runner, Sample
from latency_predictors.runners.qnn import QnnRunner
from search_spaces.errors import UserError

installed = find_spec("onnxruntime_qnn") is not None
needs_qnn = pytest.mark.skipif(not installed, reason="needs the extra: pip install 'nanosd-nas[qnn]' (x86-64 Linux)")
SETTINGS = CompileSettings(timeout_s=120.0)


def compile_and_emulate(graph: str, samples: str, folder: str) -> dict[str, list[float]]:
    """In the child: the quantised graph in the emulator of the NPU, and on the CPU."""
    from latency_predictors.qnn import read_samples

    given = read_samples(Path(samples))
    quantised = quantize_graph(Path(graph), given[:-1], Path(folder) / "q.onnx")
    context = Path(folder) / "context.onnx"
    compile_graph(quantised, find_soc("SM8750"), context)
    found = emulate(context, find_soc("SM8750"), given[-1])["y"]
    return {"emulated": found.ravel().tolist(), "cpu": open_graph(quantised).run(None, given[-1])[0].ravel().tolist()}


@needs_qnn
@pytest.mark.slow
def test_the_emulator_agrees_with_onnxruntime_on_the_quantised_graph(
    conv_graph: Path, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two implementations of the same integer arithmetic: they differ by roundings of 16-bit activations."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    path = write_samples(tmp_path / "s.safetensors", samples)
    arguments = {"graph": str(conv_graph), "samples": str(path), "folder": str(tmp_path)}
    outcome = isolated.call(f"{Path(__file__).stem}:compile_and_emulate", arguments, timeout_s=120.0)
    assert outcome.status == "ok", outcome.reason
    emulated, cpu = np.array(outcome.value["emulated"]), np.array(outcome.value["cpu"])
    assert np.std(cpu) > 0.1
    assert np.abs(emulated - cpu).max() <= 3 * (cpu.max() - cpu.min()) / 65535


@needs_qnn
@pytest.mark.slow
def test_a_graph_compiles_and_is_accurate(conv_graph: Path, samples: list[Sample], tmp_path: Path) -> None:
    path = write_samples(tmp_path / "s.safetensors", samples)
    context = tmp_path / "out" / "conv.onnx"
    report = QnnRunner(SETTINGS).compile("conv", conv_graph, path, context, check_numerics=True)
    assert (report.status, report.step, report.reason) == ("compiled", None, None)
    assert report.context_bytes == binary_path(context).stat().st_size > 0
    assert report.num_nodes is not None and report.num_nodes >= 2
    assert report.worst_error_l2 is not None and 0 < report.worst_error_l2 < 0.01
    assert list(report.seconds) == ["quantise", "compile", "emulate"]
    assert sorted(p.name for p in context.parent.iterdir()) == sorted([context.name, binary_path(context).name])


@needs_qnn
@pytest.mark.slow
def test_what_the_npu_cannot_take_is_named(unsupported_graph: Path, samples: list[Sample], tmp_path: Path) -> None:
    path = write_samples(tmp_path / "s.safetensors", samples)
    context = tmp_path / "out" / "det.onnx"
    report = QnnRunner(SETTINGS).compile("det", unsupported_graph, path, context, check_numerics=True)
    assert (report.status, report.step) == ("refused", "compile")
    assert report.reason is not None and "1 Det (such as last)" in report.reason
    assert (report.num_nodes, report.context_bytes, report.error_l2) == (None, None, None)
    assert list(context.parent.iterdir()) == []


@pytest.mark.skipif(installed, reason="the extra is installed")
def test_without_the_extra_one_line_says_how_to_get_it() -> None:
    with pytest.raises(UserError, match=r"pip install 'nanosd-nas\[qnn\]'"):
        toolchain()


def test_there_is_no_latency_on_a_pc(conv_graph: Path) -> None:
    runner = QnnRunner()
    assert isinstance(runner, Runner)
    assert (runner.device, runner.runtime, runner.precision, runner.threads) == (
        "SM8750",
        "onnxruntime-qnn",
        "w8a16",
        1,
    )
    for ask in (runner.measure, runner.passes):
        with pytest.raises(UserError, match=r"SM8750.*measure on the phone, or import") as caught:
            ask({"conv": conv_graph}, MeasureSettings())
        assert "\n" not in str(caught.value)


def test_an_unknown_soc_is_refused_at_once() -> None:
    with pytest.raises(UserError, match="SoC 'SM0' is not known"):
        QnnRunner(CompileSettings(soc="SM0"))
