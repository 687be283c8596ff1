"""What a broken measurement costs, and what a session leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_predictors.journal import Journal
from latency_predictors.manifest import REFERENCE
from latency_predictors.measuring import GroupSettings, measure_all
from latency_predictors.runners import RunnerSpec
from latency_predictors.runners.base import Sample
from latency_predictors.runners.onnxruntime_cpu import OnnxRuntimeRunner
from latency_predictors.teacher_graphs import FileGraphs
from search_spaces.errors import UserError
from tests.latency_predictors.bad_runners import BadRunner

QUICK = GroupSettings(warm_up=1, min_repeats=4, rounds_per_pass=2, max_seconds=0.01, target_ci_pct=100, timeout_s=1.5)
# The bad runner breaks in its second pass: this session needs that many of a subject by itself.
LONGER = QUICK.model_copy(update={"min_repeats": 6, "max_seconds": 60.0})
NAMES = ("a", "E1/RA", "c")


class Products:
    """Graphs of one matrix product each, of a size that the name decides; "bad" is no graph."""

    primers: Sequence[str] = ("p",)

    def write(self, name: str, path: Path) -> Sequence[Sample]:
        if name == "unwritable":
            raise UserError("graph of unwritable: no such option")
        if name == "huge":
            raise MemoryError("Unable to allocate 745 GiB")
        size = 8 * len(name)
        weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [size, size]) for n in ("x", "y")]
        op = "NoSuchOperator" if name == "bad" else "MatMul"
        nodes, weights = [helper.make_node(op, ["x", "w"], ["y"])], [weight]
        if name == "large":  # 6.7 GB between two operators
            weights = [numpy_helper.from_array(np.array([1 << 20, 1, 1]), "times")]
            nodes = [helper.make_node("Expand", ["x", "times"], ["many"])]
            nodes.append(helper.make_node("ReduceMax", ["many"], ["y"], axes=[0], keepdims=0))
        graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name == "constant":
            nodes = [helper.make_node("Constant", [], ["y"], value=weight)]
            graph = helper.make_graph(nodes, "g", [], ends[1:])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
        return [{} if name == "constant" else {"x": np.ones((size, size), dtype=np.float32)}]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are given this process's import path."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def bad(**options: object) -> RunnerSpec:
    return RunnerSpec(name="bad_runners:BadRunner", options=options)


def journal(folder: Path) -> Journal:
    return Journal(folder / "measurements.jsonl", {"test": 1})


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("hang silently", "stopped after 1.5 s"),
        pytest.param("hang", "stopped after 1.5 s", marks=pytest.mark.slow),
        ("abort", "SIGABRT"),
        pytest.param("raise", "RuntimeError: device lost", marks=pytest.mark.slow),
    ],
)
def test_what_breaks_costs_only_itself(way: str, reason: str, tmp_path: Path) -> None:
    kept = journal(tmp_path)
    manifest = measure_all(NAMES, Products(), bad(subject="E1/RA", way=way), LONGER, kept, tmp_path / "graphs")
    assert manifest is not None
    assert sorted(kept.measurements()) == ["a", "c"]
    assert list(manifest.failed) == ["E1/RA"]
    assert reason in manifest.failed["E1/RA"]
    assert "\n" not in manifest.failed["E1/RA"]
    assert manifest.placement == {"CPUExecutionProvider": 3}, "the failed one was placed too, before it broke"
    assert [name for name in ("a", "c") if len(kept.recordings[name]) < 2] == []
    assert not (tmp_path / "graphs").exists()
    # The pass before the breakdown was kept, so the other two go on from there.
    assert len(journal(tmp_path).recordings["a"]) >= 2


@pytest.mark.parametrize(
    ("way", "reason"),
    [("hang preparing", "stopped after 3 s"), pytest.param("abort preparing", "SIGABRT", marks=pytest.mark.slow)],
)
def test_what_breaks_when_it_is_prepared_costs_only_itself(way: str, reason: str, tmp_path: Path) -> None:
    """Quantisers are native code too: in this process the first would hang the session, the second end it."""
    kept, notes = journal(tmp_path), []
    settings = QUICK.model_copy(update={"prepare_timeout_s": 3.0})
    report = lambda done, total, note: notes.append(note)  # noqa: E731
    spec = bad(subject="E1/RA", way=way)
    manifest = measure_all(NAMES, Products(), spec, settings, kept, tmp_path / "graphs", report)
    assert manifest is not None
    assert (sorted(kept.measurements()), list(manifest.failed)) == (["a", "c"], ["E1/RA"])
    assert "turning the graph into w8a8: " in manifest.failed["E1/RA"] and reason in manifest.failed["E1/RA"]
    assert "w8a8 of E1/RA" in notes, "progress says what it is waiting for"
    assert not (tmp_path / "graphs").exists()


def test_what_broke_among_others_is_tried_again_alone(tmp_path: Path) -> None:
    """Native code that runs out of memory ends in any way: what broke once is no proof against a subject."""
    kept, notes = journal(tmp_path), []
    spec = bad(subject="E1/RA", way="abort", at_most=2)  # the subject alone and the reference are good
    report = lambda done, total, note: notes.append(note)  # noqa: E731
    manifest = measure_all(NAMES, Products(), spec, QUICK, kept, tmp_path / "graphs", report)
    assert manifest is not None and manifest.failed == {}
    assert set(kept.measurements()) == set(NAMES)
    assert [note for note in notes if "E1/RA broke, and is tried again alone: ended by SIGABRT" in note]


def test_a_failure_is_tried_again_only_on_request(tmp_path: Path) -> None:
    marker = tmp_path / "mended"
    runner = BadRunner(subject="E1/RA", way="refuse", marker=str(marker))
    measure_all(NAMES, Products(), runner, QUICK, journal(tmp_path), tmp_path / "graphs")
    marker.touch()
    before = (tmp_path / "measurements.jsonl").read_bytes()
    again = journal(tmp_path)
    manifest = measure_all(NAMES, Products(), runner, QUICK, again, tmp_path / "graphs")
    assert manifest == again.manifest
    assert manifest is not None and list(manifest.failed) == ["E1/RA"]
    assert (tmp_path / "measurements.jsonl").read_bytes() == before, "nothing was measured"
    again.retry(NAMES)
    manifest = measure_all(NAMES, Products(), runner, QUICK, again, tmp_path / "graphs")
    assert manifest is not None and manifest.failed == {}
    assert set(journal(tmp_path).measurements()) == set(NAMES)


def test_a_group_that_needs_too_much_memory_is_split(tmp_path: Path) -> None:
    names = [f"n{'x' * i}" for i in range(3)]
    notes: list[str] = []
    kept = journal(tmp_path)
    spec = bad(way="memory", at_most=3)  # two subjects and the reference
    manifest = measure_all(
        names, Products(), spec, QUICK, kept, tmp_path / "graphs", lambda done, total, note: notes.append(note)
    )
    assert manifest is not None and manifest.failed == {}
    assert set(kept.measurements()) == set(names)
    assert any("out of memory with 3 graphs" in note for note in notes)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_subject_too_large_by_itself_fails(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    spec = RunnerSpec(name="onnxruntime-cpu")
    settings = QUICK.model_copy(update={"memory_limit_bytes": 2 << 30})
    manifest = measure_all(["a", "large", "c"], Products(), spec, settings, kept, tmp_path / "graphs")
    assert manifest is not None
    assert sorted(kept.measurements()) == ["a", "c"]
    assert list(manifest.failed) == ["large"]
    assert "allocate" in manifest.failed["large"]


def test_a_limit_that_no_subject_fits_fails_each(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    measure_all(["a"], Products(), bad(way="memory"), QUICK, kept, tmp_path / "graphs")
    assert list(kept.failed) == ["a"] and "MemoryError" in kept.failed["a"]


def test_what_cannot_be_written_or_loaded_is_left_out(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    spec = RunnerSpec(name="onnxruntime-cpu")
    measure_all(["unwritable", "bad", "ok"], Products(), spec, QUICK, kept, tmp_path / "graphs")
    assert list(kept.measurements()) == ["ok"]
    assert set(kept.failed) == {"unwritable", "bad"}
    assert "NoSuchOperator" in kept.failed["bad"]


@pytest.mark.parametrize("primers", [("unwritable", "bad", "ok"), ("bad", "ok"), ("huge", "ok")])
def test_a_bad_graph_is_not_the_reference_of_good_ones(primers: Sequence[str], tmp_path: Path) -> None:
    graphs, kept = Products(), journal(tmp_path)
    graphs.primers = primers
    measure_all(["ok", *primers[:-1]], graphs, OnnxRuntimeRunner(), QUICK, kept, tmp_path / "graphs")
    assert list(kept.measurements()) == ["ok"]
    assert set(kept.failed) == set(primers[:-1])
    if "bad" in primers:
        assert kept.failed["bad"].startswith("graph of bad: ")
    assert not (tmp_path / "graphs").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_reference_too_large_is_changed(tmp_path: Path) -> None:
    graphs, kept = Products(), journal(tmp_path)
    graphs.primers = ("large", "ok")
    settings = QUICK.model_copy(update={"memory_limit_bytes": 1 << 30, "timeout_s": 60.0})
    measure_all(["ok", "large"], graphs, RunnerSpec(name="onnxruntime-cpu"), settings, kept, tmp_path / "graphs")
    assert (list(kept.measurements()), list(kept.failed)) == (["ok"], ["large"])


def test_a_file_of_inputs_too_large_is_said(tmp_path: Path) -> None:
    shape = [100_000, 100_000, 10]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), str(tmp_path / "huge.onnx"))
    with pytest.raises(UserError, match=r"its inputs take 800 GB .*export it with smaller inputs"):
        FileGraphs({"huge": tmp_path / "huge.onnx"}).write("huge", tmp_path / "copy.onnx")


def test_a_graph_without_inputs_cannot_be_quantised(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    spec = OnnxRuntimeRunner(precision="w8a8")
    measure_all(["a", "constant"], Products(), spec, QUICK, kept, tmp_path / "graphs")
    assert list(kept.measurements()) == ["a"]
    assert "has no inputs to calibrate on; leave it out" in kept.failed["constant"]


def test_a_runner_of_this_process_measures_the_same_subjects(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    manifest = measure_all(["a", "bad"], Products(), OnnxRuntimeRunner(), QUICK, kept, tmp_path / "graphs")
    assert manifest is not None
    assert (list(kept.measurements()), list(kept.failed)) == (["a"], ["bad"])


def test_the_manifest_says_what_the_session_was(tmp_path: Path) -> None:
    kept = journal(tmp_path)
    spec = RunnerSpec(name="onnxruntime-cpu", options={"precision": "w8a8"})
    made = measure_all(["a"], Products(), spec, QUICK, kept, tmp_path / "graphs")
    assert made is not None
    import onnxruntime

    assert made.versions == {"onnxruntime": onnxruntime.__version__}
    assert (made.runtime, made.precision, made.threads) == ("onnxruntime-cpu", "w8a8", 1)
    assert made.quantization is not None and made.quantization.integer_macs_share == (1.0, 1.0)
    assert made.drift is not None and not made.drift.corrected
    assert made.conditions.affinity
    assert journal(tmp_path).manifest == made
    entries = [json.loads(line) for line in (tmp_path / "measurements.jsonl").read_text().splitlines()]
    assert {"recording", "facts", "finished", "manifest", "context"} == {key for entry in entries for key in entry}
    assert REFERENCE in {e["recording"]["subject"] for e in entries if "recording" in e}
    assert list(kept.measurements()) == ["a"], "the reference is no measurement"


def test_a_journal_of_before_is_read(tmp_path: Path) -> None:
    """Lines as the first version wrote them: no affinity in the conditions, no manifest."""
    conditions = {"cpu": "c", "num_cores": 2, "os": "Linux", "runtime_version": "1", "spinning": False}
    conditions |= {"governor": None, "temperature_c": None, "load_average_1min": 0.5, "measured_at": "2026-01-01"}
    recording = {"subject": "a", "pass_id": 1, "device": "c", "runtime": "onnxruntime-cpu", "precision": "float32"}
    recording |= {"threads": 1, "wall_ms": [1.0, 1.2, 1.1], "cpu_ms": [1.0, 1.2, 1.1], "conditions": conditions}
    lines = [{"context": {"test": 1}}, {"recording": recording}, {"finished": ["a"]}]
    (tmp_path / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    old = journal(tmp_path)
    assert old.measurements()["a"].median_ms == 1.1
    assert (old.manifest, old.failed, old.facts) == (None, {}, {})


_CHILD = """
import sys, time
from pathlib import Path
from tests.latency_predictors.test_measuring import NAMES, QUICK, OnnxRuntimeRunner, Products, journal, measure_all
notes = []
def report(done, total, note):
    notes.append(note)
    if "measured" in notes and "in turn" in note:
        print(note, flush=True)
        time.sleep(600)
folder, settings = Path(sys.argv[1]), QUICK.model_copy(update={"group_bytes": 1})
measure_all(NAMES, Products(), OnnxRuntimeRunner(), settings, journal(folder), folder / "graphs", report)
"""


def test_a_killed_session_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The second of three groups has had a pass: SIGKILL costs nothing of that, and nothing of the first."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *(p for p in sys.path if p)])}
    command = [sys.executable, "-c", _CHILD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and b"in turn" in child.stdout.readline()
        child.kill()
    left = journal(tmp_path)
    assert left.finished == ["a"]
    begun = {name: len(passes) for name, passes in left.recordings.items() if name != REFERENCE}
    assert begun == {"a": begun["a"], "E1/RA": 1}
    kept = journal(tmp_path)
    measure_all(NAMES, Products(), OnnxRuntimeRunner(), QUICK, kept, tmp_path / "graphs")
    assert sorted(kept.finished) == sorted(NAMES)
    for name, passes in left.recordings.items():
        assert kept.recordings[name][: len(passes)] == passes
    assert len(kept.recordings["a"]) == begun["a"] and len(kept.recordings["E1/RA"]) > 1
    assert not (tmp_path / "graphs").exists()
