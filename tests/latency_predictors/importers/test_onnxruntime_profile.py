"""On profiles that onnxruntime writes here, of a small real graph."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_predictors.importers import Facts, read_measurements
from search_spaces.errors import UserError
from tests.latency_predictors.importers.samples import ORT_PROFILE

NUM_RUNS = 7


class Profiled(NamedTuple):
    path: Path
    wall_ms: list[float]
    op_types: set[str]


def profile(folder: Path, sizes: list[int]) -> Profiled:
    """Runs convolution, softmax and matrix product on squares of these sizes, in order."""
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((16, 16, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="/down/conv", pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["c"], ["s"], name="/attention/softmax"),
        helper.make_node("MatMul", ["s", "c"], ["y"], name="/attention/values"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 16, "h", "h"]) for n in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "ort")
    options.intra_op_num_threads = 1
    onnx.save(model, str(folder / "g.onnx"))
    session = onnxruntime.InferenceSession(str(folder / "g.onnx"), options, providers=["CPUExecutionProvider"])
    wall_ms = []
    for size in sizes:
        feed = {"x": np.ones((1, 16, size, size), dtype=np.float32)}
        begin = time.perf_counter()
        session.run(None, feed)
        wall_ms.append(1e3 * (time.perf_counter() - begin))
    return Profiled(Path(session.end_profiling()), wall_ms, {node.op_type for node in nodes})


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    return profile(tmp_path_factory.mktemp("profile"), [64] * NUM_RUNS)


def events(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())


@pytest.mark.parametrize("warm_up", [0, 1, 3])
def test_latency_is_the_median_of_the_runs_after_warm_up(profiled: Profiled, warm_up: int) -> None:
    result = read_measurements(profiled.path, facts=Facts(warm_up_runs=warm_up, device="This machine", threads=1))
    durations_us = [e["dur"] for e in events(profiled.path) if e["name"] == "model_run"]
    assert len(durations_us) == NUM_RUNS
    (m,) = result.measurements
    assert m.latency_ms == pytest.approx(statistics.median(durations_us[warm_up:]) / 1000, rel=1e-12)
    assert (m.num_samples, m.statistic, m.runtime) == (NUM_RUNS - warm_up, "median", "onnxruntime-cpu")
    assert (m.device, m.threads, m.precision, m.subject) == ("This machine", 1, None, profiled.path.stem)
    assert not result.flags
    assert result.format == "onnxruntime-profile"


def test_the_unit_agrees_with_a_clock(profiled: Profiled) -> None:
    """A run in the profile is inside the call that was timed, and most of it."""
    (m,) = read_measurements(profiled.path, facts=Facts(warm_up_runs=0)).measurements
    assert min(profiled.wall_ms) / 20 < m.latency_ms <= max(profiled.wall_ms)


def test_operators_have_their_names_and_times(profiled: Profiled) -> None:
    result = read_measurements(profiled.path)
    begins = sorted(e["ts"] for e in events(profiled.path) if e["name"] == "model_run")
    kernels: dict[str, list[int]] = {}
    for event in events(profiled.path):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= begins[1]:
            kernels.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"])
    found = {operator.name: operator for operator in result.operators}
    assert {name: o.latency_ms for name, o in found.items()} == {
        name: pytest.approx(statistics.median(us) / 1000) for name, us in kernels.items()
    }
    assert {o.num_samples for o in found.values()} == {NUM_RUNS - 1}
    assert profiled.op_types <= {o.op_type for o in found.values()}  # layout changes are added to the graph's own
    assert result.measurements[0].compute_unit == "CPU"
    assert result.measurements[0].layer_counts is not None
    assert result.measurements[0].layer_counts.cpu == len(found)


def test_a_run_of_its_warm_up_only_is_refused(profiled: Profiled) -> None:
    with pytest.raises(UserError, match=rf"\$\[\d+\]: {NUM_RUNS} model_run, of which {NUM_RUNS} are warm-up"):
        read_measurements(profiled.path, facts=Facts(warm_up_runs=NUM_RUNS))


def test_runs_of_several_shapes_are_refused_unless_in_warm_up(tmp_path: Path) -> None:
    path = profile(tmp_path, [32, 64, 64, 32]).path
    with pytest.raises(UserError, match=r"\$\[\d+\]: operator '.*' has other input shapes than in \$\[\d+\]"):
        read_measurements(path)
    path = profile(tmp_path, [32, 64, 64]).path
    assert read_measurements(path).measurements[0].num_samples == 2


def test_a_profile_that_was_cut_off_says_so(profiled: Profiled, tmp_path: Path) -> None:
    text = profiled.path.read_text()
    path = tmp_path / "cut.json"
    path.write_text(text.rstrip().removesuffix("]"))
    with pytest.raises(UserError, match=r"row \d+: not readable as JSON: .*cut off: end the profiling session"):
        read_measurements(path)


def test_overlapping_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(ORT_PROFILE.replace("@", "12500").replace('"dur" :99000', '"dur" :199500'))
    with pytest.raises(UserError, match=r"\$\[4\]: runs while \$\[2\] does"):
        read_measurements(path)


def test_operators_of_another_provider_are_remarked(tmp_path: Path) -> None:
    """One run of three operators: two on the NPU, one that fell back."""
    run, *_ = [e for e in json.loads(ORT_PROFILE.replace("@", "12500")) if e["ts"] == 200000]
    nodes = [
        {
            "cat": "Node", "name": f"n{i}_kernel_time", "ts": 200010 + i, "dur": 5,
            "args": {"op_name": "Conv", "provider": f"{provider}ExecutionProvider", "input_type_shape": []},
        }
        for i, provider in enumerate(["QNN", "CPU", "QNN"])
    ]  # fmt: skip
    path = tmp_path / "profile.json"
    path.write_text(json.dumps([*nodes, run]))
    result = read_measurements(path, facts=Facts(warm_up_runs=0))
    (m,) = result.measurements
    assert (m.runtime, m.compute_unit) == ("onnxruntime-qnn", "NPU")
    assert m.layer_counts is not None and m.layer_counts.model_dump() == {"cpu": 1, "gpu": 0, "npu": 2}
    (flag,) = result.flags
    assert (flag.row, flag.refused) == ("$[1]", False)
    assert "2 on QNNExecutionProvider, 1 on CPUExecutionProvider" in flag.reason


def test_a_provider_of_unknown_unit_claims_none(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(ORT_PROFILE.replace("@", "12500").replace("CPUExecution", "OpenVINOExecution"))
    (m,) = read_measurements(path).measurements
    assert (m.runtime, m.compute_unit, m.layer_counts) == ("onnxruntime-openvino", None, None)
