from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from experiments.cli import app
from experiments.exits import run_app
from experiments.measure_command import run
from latency_predictors.importers import read_measurements
from latency_predictors.manifest import Manifest
from latency_predictors.runners import RunnerSpec
from latency_predictors.teacher_graphs import FileGraphs
from nas.folder_lock import folder_lock
from nas.measure_plan import Wanted, plan, unet_of
from search_spaces.errors import UserError
from search_spaces.space_file import load_space


def product(path: Path, size: int, op: str = "MatMul") -> Path:
    weight = numpy_helper.from_array(np.eye(size, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [size, size]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_files_in_a_csv_that_can_be_imported_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = product(tmp_path / "small.onnx", 16), product(tmp_path / "large.onnx", 256)
    broken = product(tmp_path / "broken.onnx", 16, op="NoSuchOperator")
    out = tmp_path / "out"
    files = [f"--onnx={path}" for path in (small, large, broken)]
    arguments = ["measure", *files, f"--out={out}", "--max-seconds=0.05", "--json"]
    assert run_app(app, arguments) == 0
    printed, errors = capsys.readouterr()
    answer = json.loads(printed)
    assert sorted(answer["measurements"]) == ["large", "small"]
    assert "broken failed" in errors and "--retry-failed" in errors
    rows = read_measurements(out / "measurements.csv").measurements
    assert {row.subject: row.latency_ms for row in rows} == {
        name: m["median_ms"] for name, m in answer["measurements"].items()
    }
    assert {(row.runtime, row.precision, row.threads) for row in rows} == {("onnxruntime-cpu", "float32", 1)}
    manifest = Manifest.model_validate_json((out / "manifest.json").read_text())
    assert list(manifest.failed) == ["broken"]
    assert manifest.model_dump(mode="json") == answer["manifest"]
    before = (out / "measurements.jsonl").read_bytes()
    assert run_app(app, arguments) == 0
    assert (out / "measurements.jsonl").read_bytes() == before, "what is measured is not measured again"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure"),
        (["--blocks=all", "--runner=abacus"], "legal are onnxruntime-cpu"),
        (["--blocks=E1/XX"], "no such subject"),
        (["--vae=all"], "has no VAE"),
        (["--blocks=all", "--onnx=x.onnx"], "by themselves"),
        (["--onnx=x.onnx"], "no such file"),
        (["--random=99999999"], "candidates; give fewer"),
        (["--blocks=all", "--cores=a"], "not whole numbers"),
        (["--blocks=all", "--option=threads"], "not KEY=VALUE"),
        (["--blocks=all", "--option=colour=red"], "option 'colour' is not known; legal are threads"),
        (
            ["--blocks=all", "--threads=99999999"],
            "threads: 99999999 is not legal; give a whole number of thr",
        ),
        (["--blocks=all", "--option=threads=99999999"], "threads: 99999999 is not legal; give a whole number of thr"),
        (["--blocks=all", "--option=threads=1e400"], "threads: inf is not legal"),
        (["--blocks=all", "--option=threads={}"], "threads: {} is not legal"),
        (["--blocks=all", "--option=cores=0,1"], "cores: '0,1' is not legal; give core numbers in brackets"),
        (["--blocks=all", "--max-seconds=inf", "--list"], "--max-seconds inf: not legal; give seconds, 0.001 to"),
        (["--blocks=all", "--timeout-s=nan"], "--timeout-s nan: not legal; give seconds, 1 to"),
        (["--onnx=."], "is a folder; give a file in it"),
    ],
)
def test_what_the_user_must_mend_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run_app(app, ["measure", *arguments, "--random-weights", f"--out={tmp_path / 'out'}"]) == 2
    printed, errors = capsys.readouterr()
    assert (printed, errors.count("\n")) == ("", 1)
    assert said in errors
    assert not (tmp_path / "out").exists()


def test_another_file_of_the_same_name_is_not_taken_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, size in (("a", 8), ("b", 16)):
        (tmp_path / folder).mkdir()
        product(tmp_path / folder / "m.onnx", size)
    spec, out, settings = RunnerSpec(name="onnxruntime-cpu"), tmp_path / "out", {"max_seconds": 0.001}
    run(plan(Wanted(onnx=(tmp_path / "a" / "m.onnx",))), spec, settings, out)
    with pytest.raises(UserError, match=r"m was another graph .*; rename the file or use another directory"):
        run(plan(Wanted(onnx=(tmp_path / "b" / "m.onnx",))), spec, settings, out)
    spinning = RunnerSpec(name="onnxruntime-cpu", options={"spinning": True})
    with pytest.raises(UserError, match=r"options is .*'spinning': None.*, this session's is .*'spinning': True"):
        run(plan(Wanted(onnx=(tmp_path / "a" / "m.onnx",))), spinning, settings, out)
    # Said or left out, a default is the same.
    said = RunnerSpec(name="onnxruntime-cpu", options={"threads": 1})
    assert list(run(plan(Wanted(onnx=(tmp_path / "a" / "m.onnx",))), said, settings, out)[1]) == ["m"]


def test_a_file_that_is_mended_is_tried_again(tmp_path: Path) -> None:
    """One without its weights costs only itself."""
    good, mended, out = product(tmp_path / "a.onnx", 8), tmp_path / "b.onnx", tmp_path / "out"
    model = onnx.load(str(good))
    onnx.save_model(model, str(mended), save_as_external_data=True, location="b.bin", size_threshold=0)
    (tmp_path / "b.bin").unlink()
    wanted, spec, settings = Wanted(onnx=(good, mended)), RunnerSpec(name="onnxruntime-cpu"), {"max_seconds": 0.001}
    manifest, measured = run(plan(wanted), spec, settings, out)
    assert (list(measured), list(manifest.failed)) == (["a"], ["b"])
    product(mended, 16)
    manifest, measured = run(plan(wanted), spec, settings, out)
    assert (sorted(measured), list(manifest.failed)) == (["a", "b"], [])


def test_reports_are_not_mixed_with_another_runners_measurements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs the extra qnn")
    (tmp_path / "measurements.jsonl").touch()
    path = product(tmp_path / "m.onnx", 8)
    assert run_app(app, ["measure", "--runner=qnn", f"--onnx={path}", f"--out={tmp_path}"]) == 2
    assert "holds measurements of another runner" in capsys.readouterr().err


def test_two_sessions_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = product(tmp_path / "m.onnx", 8)
    with folder_lock(tmp_path, "a test"):
        assert run_app(app, ["measure", f"--onnx={path}", f"--out={tmp_path}"]) == 2
        assert "another nanosd process is working in it" in capsys.readouterr().err
        with pytest.raises(UserError, match="another nanosd process"), folder_lock(tmp_path, "a test"):
            pass
    assert not (tmp_path / "measurements.jsonl").exists()


@pytest.mark.slow
def test_a_killed_session_goes_on_and_repeats_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, out = product(tmp_path / "a.onnx", 32), product(tmp_path / "b.onnx", 64), tmp_path / "out"
    spec, journal = RunnerSpec(name="onnxruntime-cpu"), out / "measurements.jsonl"
    short = {"max_seconds": 0.001}

    def passes(name: str) -> list[dict[str, object]]:
        entries = [json.loads(line) for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        return [e["recording"] for e in entries if e.get("recording", {}).get("subject") == name]

    run(plan(Wanted(onnx=(first,))), spec, short, out)
    finished = passes("a")
    assert finished
    arguments = ["measure", f"--onnx={first}", f"--onnx={second}", f"--out={out}"]
    endless = f"""
import sys; sys.path[:] = {sys.path!r}
from pathlib import Path
from experiments.measure_command import run
from latency_predictors.runners import RunnerSpec
from nas.folder_lock import folder_lock
from nas.measure_plan import Wanted, plan
wanted = Wanted(onnx=(Path({str(first)!r}), Path({str(second)!r})))
settings = dict(max_seconds=1e6, target_ci_pct=1e-9)
run(plan(wanted), RunnerSpec(name="onnxruntime-cpu"), settings, Path({str(out)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", endless], stderr=subprocess.DEVNULL) as session:
        try:
            while not passes("b"):
                assert session.poll() is None
                time.sleep(0.01)
            assert run_app(app, arguments) == 2, "the other one is at work"
            assert "another nanosd process is working in it" in capsys.readouterr().err
        finally:
            session.kill()
    kept = passes("b")
    _, measured = run(plan(Wanted(onnx=(first, second))), spec, short, out)
    assert passes("a") == finished
    assert passes("b")[: len(kept)] == kept and len(passes("b")) > len(kept)
    assert sorted(measured) == ["a", "b"]
    assert not (out / "graphs").exists()


def test_weights_beside_a_file_are_part_of_it(tmp_path: Path) -> None:
    path, weights = tmp_path / "m.onnx", tmp_path / "m.bin"
    model = onnx.load(str(product(tmp_path / "one.onnx", 8)))
    onnx.save_model(model, str(path), save_as_external_data=True, location=weights.name, size_threshold=0)
    graphs = FileGraphs({"m": path})
    before = graphs.digest("m")
    assert graphs.digest("m") == before
    weights.write_bytes(b"\x01" + weights.read_bytes()[1:])
    assert graphs.digest("m") != before
    weights.unlink()
    with pytest.raises(UserError, match=r"its weights .*m.bin are not there"):
        graphs.digest("m")


def test_only_what_a_latency_depends_on_is_context() -> None:
    given = {"provider": "qnn", "folder": "/data/x", "poll_s": 1.0, "adb": "/usr/bin/adb"}
    context = RunnerSpec(name="adb", options=given).context
    assert (context["provider"], context["threads"]) == ("qnn", 1)
    assert not context.keys() & {"folder", "poll_s", "adb", "timeout_s", "cooling_s"}


def test_a_list_names_every_option_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--blocks=all", "--random=2", "--candidates=BK-Tiny", "--seed=1", "--list", "--json", f"--out={out}"]
    space = load_space("nanosd")
    named = next(iter(space.candidates), None)
    arguments = [a.replace("BK-Tiny", named) if named else a for a in arguments if named or "BK-Tiny" not in a]
    assert run_app(app, ["measure", *arguments]) == 0
    names = json.loads(capsys.readouterr().out)["subjects"]
    blocks = [f"{s}/{o}" for s in space.stages for o in space.options[s] if o != "none"]
    assert names[: len(blocks) + 1] == ["base", *blocks]
    assert len(names) - len(blocks) - 1 == (3 if named else 2)
    assert len(set(names)) == len(names)
    assert not out.exists()


def test_halves_of_a_pipeline_space_are_subjects(tmp_path: Path) -> None:
    made = plan(Wanted(space="nanosd-joint", vae="VD/teacher", random=1, random_weights=True))
    assert made.names[0] == "VD/teacher"
    assert {name.split("/")[0] for name in made.names if "/" in name} == {"VE", "VD"}
    assert made.names[1].count("-") == 6, "the U-Net of a pipeline"
    samples = made.graphs.write("VD/teacher", tmp_path / "vd.onnx")
    graph = onnx.load(str(tmp_path / "vd.onnx")).graph
    latent = samples[0]["latent"].shape
    image = [d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    assert image[1] == 3 and image[2] % latent[2] == 0
    assert unet_of(load_space("nanosd-joint")).stages == load_space("nanosd").stages
