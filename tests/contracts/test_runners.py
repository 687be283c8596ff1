"""What every runner must do. A new runner is added to RUNNERS and passes, or it is no runner."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_predictors.measurement import cpu_name
from latency_predictors.runners import make_runner, option_from_text, runner_names, runner_options
from latency_predictors.runners.adb import AdbRunner
from latency_predictors.runners.base import MeasureSettings, Runner
from latency_predictors.runners.onnxruntime_cpu import OnnxRuntimeRunner
from latency_predictors.runners.openvino import OpenVinoRunner
from search_spaces.errors import UserError
from tests.latency_predictors.android.phones import phone_runner


def openvino() -> Runner:
    if find_spec("openvino") is None:
        pytest.skip("needs the extra: pip install 'nanosd-nas[openvino]'")
    return OpenVinoRunner()


RUNNERS: dict[str, Callable[[], Runner]] = {
    "adb": phone_runner,
    "onnxruntime-cpu": OnnxRuntimeRunner,
    "onnxruntime-cpu, two threads": lambda: OnnxRuntimeRunner(threads=2),
    "openvino": openvino,
}
QUICK = MeasureSettings(warm_up=2, min_repeats=10, rounds_per_pass=5, max_seconds=0.05, target_ci_pct=1e6)


def matmul_chain(path: Path, size: int, length: int, op: str = "MatMul") -> Path:
    """x (size, size) times `length` constant matrices."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for i in range(length):
        matrix = (rng.standard_normal((size, size)) / math.sqrt(size)).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{i}"))
        nodes.append(helper.make_node(op, [f"x{i}", f"w{i}"], [f"x{i + 1}"]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [size, size]) for n in ("x0", f"x{length}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture(params=RUNNERS.values(), ids=RUNNERS.keys())
def runner(request: pytest.FixtureRequest) -> Runner:
    return request.param()


def test_is_a_runner(runner: Runner) -> None:
    assert isinstance(runner, Runner)


def test_every_subject_has_one_complete_record(runner: Runner, tmp_path: Path) -> None:
    graphs = {"short": matmul_chain(tmp_path / "a.onnx", 64, 1), "long": matmul_chain(tmp_path / "b.onnx", 128, 4)}
    notes: list[tuple[int, int, str]] = []
    measured = runner.measure(graphs, QUICK, on_progress=lambda *note: notes.append(note))
    assert list(measured) == ["short", "long"]
    for name, record in measured.items():
        assert record.subject == name
        assert (record.device, record.runtime) == (runner.device, runner.runtime)
        assert (record.precision, record.threads) == (runner.precision, runner.threads)
        assert record.ci95_ms[0] <= record.median_ms <= record.ci95_ms[1]
        assert record.p10_ms <= record.median_ms <= record.p90_ms
        assert record.num_samples >= 1
        assert (record.conditions.cpu == cpu_name()) == (record.conditions.phone is None)
    assert notes[-1][:2] == (2, 2)


def test_the_unit_is_milliseconds(runner: Runner, tmp_path: Path) -> None:
    """Runs take no longer than the pass that they are in, and no less than a processor of 20 TFLOP/s needs."""
    passes = runner.passes({"a": matmul_chain(tmp_path / "a.onnx", 512, 8)}, QUICK)
    next(passes)
    begin = time.perf_counter()
    runs_ms = next(passes)["a"].cpu_ms
    pass_ms = 1e3 * (time.perf_counter() - begin)
    assert sum(runs_ms) <= pass_ms
    assert min(runs_ms) > 1e3 * 8 * 2 * 512**3 / 20e12  # a tenth of a millisecond; in seconds it would be 0.01 or so


def test_passes_come_one_at_a_time(runner: Runner, tmp_path: Path) -> None:
    graphs = {"a": matmul_chain(tmp_path / "a.onnx", 32, 1), "b": matmul_chain(tmp_path / "b.onnx", 32, 2)}
    passes = runner.passes(graphs, QUICK)
    for _ in range(2):
        one = next(passes)
        assert set(one) == {"a", "b"}
        assert all(len(r.cpu_ms) == QUICK.rounds_per_pass for r in one.values())


@pytest.mark.parametrize("kind", ["missing", "not onnx", "unknown operator"])
def test_a_graph_that_cannot_run_names_the_subject(runner: Runner, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.onnx"
    if kind == "not onnx":
        path.write_bytes(b"nonsense")
    elif kind == "unknown operator":
        matmul_chain(path, 8, 1, op="NoSuchOperator")
    with pytest.raises(UserError, match="E1/RA") as caught:
        runner.measure({"E1/RA": path}, QUICK)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runner_class", [AdbRunner, OnnxRuntimeRunner, OpenVinoRunner])
def test_no_threads_are_refused(runner_class: Callable[..., Runner]) -> None:
    values: tuple[object, ...] = (0, 1025, 1.5, float("nan"), "a", {}, True)
    for threads in values:
        with pytest.raises(UserError, match=r"threads: .* is not legal; give a whole number of threads, 1 to 1024"):
            runner_class(threads=threads)


def test_options_are_of_the_type_that_the_runner_states() -> None:
    for options, message in (
        ({"spinning": 5}, "spinning: 5 is not legal; give true or false"),
        ({"cores": 5}, "cores: 5 is not legal; give core numbers in brackets"),
        ({"cores": "abc"}, "cores: 'abc' is not legal"),
        ({"precision": 5}, "precision: 5 is not legal; give 'float32'"),
    ):
        with pytest.raises(UserError, match=message):
            make_runner("onnxruntime-cpu", **options)
    with pytest.raises(UserError, match="timeout_s: inf is not legal; give seconds"):
        make_runner("adb", timeout_s=float("inf"))
    assert option_from_text("adb", "serial", "0123") == "0123"
    assert option_from_text("onnxruntime-cpu", "threads", "2") == 2
    assert option_from_text("adb", "options", '{"soc_model": "69"}') == {"soc_model": "69"}


def test_it_says_what_it_turns_to_and_where_nodes_run(runner: Runner, tmp_path: Path) -> None:
    graphs = {"a": matmul_chain(tmp_path / "a.onnx", 32, 1), "b": matmul_chain(tmp_path / "b.onnx", 32, 2)}
    announced: list[str] = []
    passes = runner.passes(graphs, QUICK, announce=announced.append)
    one = next(passes)
    # Once before a subject is loaded, and once before each of its runs (on a phone: each process of them) at least.
    local = one["a"].conditions.phone is None
    assert all(announced.count(name) > (QUICK.rounds_per_pass if local else 1) for name in graphs)
    assert announced[:1] == ["a"]
    assert set(runner.placement) >= set(graphs)
    assert all(sum(counts.values()) > 0 for counts in runner.placement.values())
    assert runner.versions and all(runner.versions.values())
    if local and hasattr(os, "sched_getaffinity"):
        assert one["a"].conditions.affinity


@pytest.mark.parametrize("name", runner_names())
def test_every_name_makes_a_runner_or_says_what_is_missing(name: str) -> None:
    assert isinstance(runner_options(name), tuple)
    try:
        is_runner = isinstance(make_runner(name), Runner)  # looks at its properties: a phone's need the phone
    except UserError as error:
        assert "\n" not in str(error) and ";" in str(error)
    else:
        assert is_runner


def test_unknown_names_and_options_list_the_legal_ones() -> None:
    with pytest.raises(UserError, match="'abacus' is not known; legal are onnxruntime-cpu, onnxruntime-cuda"):
        make_runner("abacus")
    with pytest.raises(UserError, match="option 'colour' is not known; legal are threads, spinning, precision, cores"):
        make_runner("onnxruntime-cpu", colour="red")
    with pytest.raises(UserError, match="cannot be imported"):
        make_runner("no_such_module:Runner")
    with pytest.raises(UserError, match="precision: 'float16' does not run on onnxruntime-cpu"):
        make_runner("onnxruntime-cpu", precision="float16")


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has what is to be refused"
)
def test_cuda_is_refused_where_it_is_not() -> None:
    with pytest.raises(UserError, match="no CUDAExecutionProvider"):
        make_runner("onnxruntime-cuda")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin processes")
def test_pinned_while_it_measures_and_free_afterwards(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    passes = OnnxRuntimeRunner(cores=[core]).passes({"a": matmul_chain(tmp_path / "a.onnx", 32, 1)}, QUICK)
    assert next(passes)["a"].conditions.affinity == (core,)
    passes.close()
    assert os.sched_getaffinity(0) == before
    with pytest.raises(UserError, match="cores: 99999 is not one of this process; legal are"):
        OnnxRuntimeRunner(cores=[99999])


def test_quantised_precisions_are_prepared_and_run(tmp_path: Path) -> None:
    """float32 is left as it is; w8a8 becomes integer arithmetic that is near it."""
    path = matmul_chain(tmp_path / "a.onnx", 64, 2)
    before = path.read_bytes()
    samples = [{"x0": np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)}]
    assert OnnxRuntimeRunner().prepare(path, samples) is None
    assert path.read_bytes() == before
    runner = OnnxRuntimeRunner(precision="w8a8")
    prepared = runner.prepare(path, samples)
    assert prepared is not None and prepared.integer_macs_share == 1.0
    assert prepared.error_l2["x2"] < 0.1
    assert runner.measure({"a": path}, QUICK)["a"].precision == "w8a8"
