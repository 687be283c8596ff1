"""The runner for phones: what is run there, what comes back, and everything that goes wrong on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from latency_predictors.measurement import Recording
from latency_predictors.runners import RunnerSpec, make_runner
from latency_predictors.runners.adb import FOLDER, AdbRunner
from latency_predictors.runners.base import MeasureSettings
from latency_predictors.runners.worker import Broken, GroupWorker, Pass
from search_spaces.errors import UserError
from tests.contracts.test_runners import matmul_chain
from tests.latency_predictors.android.phones import BINARY, SERIAL, FakePhone

OWN = f"{FOLDER}/nanosd-files"
SETTINGS = MeasureSettings(warm_up=3, rounds_per_pass=4, min_repeats=4, target_ci_pct=1e6)


@pytest.fixture
def graphs(tmp_path: Path) -> dict[str, Path]:
    return {"E1/R": matmul_chain(tmp_path / "a.onnx", 8, 1), "E1/RA": matmul_chain(tmp_path / "b.onnx", 8, 2)}


def commands(phone: FakePhone) -> list[str]:
    return [call[3] for call in phone.calls("shell") if "perf_test -e" in call[3]]


def complaint(runner: AdbRunner, graphs: dict[str, Path]) -> str:
    with pytest.raises(UserError) as caught:
        next(runner.passes(graphs, SETTINGS))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples_are_the_rows_that_the_tool_wrote(phone: FakePhone, graphs: dict[str, Path]) -> None:
    graph = {"E1/R": graphs["E1/R"]}
    passes = phone.runner(threads=2).passes(graph, SETTINGS)
    recording = next(passes)["E1/R"]
    (result,) = phone.disk(OWN).glob("runs/*/*-result.csv")
    times_s = [float(line.split(",")[1]) for line in result.read_text().splitlines()]
    assert len(times_s) == 2 + 4  # one warm-up run is the tool's own, two are in the file
    assert recording.wall_ms == pytest.approx([1e3 * t for t in times_s[2:]])
    assert recording.cpu_ms == recording.wall_ms
    assert Recording.model_validate_json(recording.model_dump_json()) == recording
    assert "-e cpu -m times -r 6 -x 2 -I" in commands(phone)[-1]
    passes.close()


@pytest.mark.slow
def test_a_graph_is_pushed_once_and_nothing_stays(phone: FakePhone, graphs: dict[str, Path]) -> None:
    before = sorted(phone.root.rglob("*"))
    passes = phone.runner().passes({**graphs, "again": graphs["E1/R"]}, SETTINGS)
    orders = []
    for _ in range(3):
        start = len(commands(phone))
        assert set(next(passes)) == {"E1/R", "E1/RA", "again"}
        orders.append([line.split()[-2] for line in commands(phone)[start:]][-3:])
    assert len(phone.calls("push")) == 2
    assert len({tuple(order) for order in orders}) > 1  # interleaved, in changing order
    passes.close()
    after = [path for path in sorted(phone.root.rglob("*")) if path.is_file()]
    assert after == sorted([phone.disk(f"{OWN}/.nanosd"), *(path for path in before if path.is_file())])


def test_a_users_folders_are_left_alone(phone: FakePhone, graphs: dict[str, Path]) -> None:
    for path in ("/sdcard/runs/morning.gpx", "/sdcard/graphs/house.png", "/sdcard/bin/tool"):
        phone.write(path, "mine")
    graph = {"E1/R": graphs["E1/R"]}
    for _ in range(2):  # on the second entry there is a session's rest to remove
        next(phone.runner(folder="/sdcard").passes(graph, SETTINGS))
    kept = [path for path in phone.disk("/sdcard").rglob("*") if path.is_file() and "nanosd-files" not in path.parts]
    assert sorted(path.name for path in kept) == ["house.png", "morning.gpx", "tool"]
    phone.write("/data/mine/nanosd-files/runs/diary", "mine")
    said = complaint(phone.runner(folder="/data/mine"), graph)
    assert "'/data/mine/nanosd-files' is there and was not made by nanosd" in said
    assert phone.disk("/data/mine/nanosd-files/runs/diary").read_text() == "mine"


@pytest.mark.slow
def test_weights_beside_the_graph_go_along(phone: FakePhone, tmp_path: Path, graphs: dict[str, Path]) -> None:
    path = tmp_path / "RA@3.onnx"
    model = onnx.load(str(matmul_chain(tmp_path / "large.onnx", 64, 1)))
    onnx.save_model(model, str(path), save_as_external_data=True, location="RA@3.onnx.data", size_threshold=0)
    runner = phone.runner()
    next(runner.passes({"E1/RA": path}, SETTINGS))
    assert runner.placement == {"E1/RA": {"CPUExecutionProvider": 1}}
    assert [Path(call[4]).name for call in phone.calls("push")] == ["model.onnx", "RA@3.onnx.data"]


@pytest.mark.slow
def test_a_local_binary_is_pushed_once_with_its_libraries(
    phone: FakePhone, tmp_path: Path, graphs: dict[str, Path]
) -> None:
    phone.disk(BINARY).unlink()
    local = tmp_path / "build" / "onnxruntime_perf_test"
    local.parent.mkdir()
    local.write_text("the program")
    (local.parent / "libonnxruntime.so").write_text("the library")
    versions = []
    for _ in range(2):
        runner = phone.runner(perf_test=str(local))
        versions.append(runner.versions)
        next(runner.passes(graphs, SETTINGS))
    names = [Path(call[4]).name for call in phone.calls("push")]
    assert [name for name in names if name != "model.onnx"] == ["libonnxruntime.so", "onnxruntime_perf_test"]
    assert versions[0] == versions[1]
    assert versions[0]["android"] == "15"
    assert f"LD_LIBRARY_PATH={OWN}/bin/" in commands(phone)[-1]


def test_a_crash_costs_only_itself(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.trouble(graphs["E1/RA"], "crash", times=2, spare_profile=True)
    recordings = next(phone.runner().passes(graphs, SETTINGS))
    assert {name: len(r.wall_ms) for name, r in recordings.items()} == {"E1/R": 4, "E1/RA": 4}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param("crash", "graph of E1/RA: .* crashed with SIGSEGV .*run it by hand", marks=pytest.mark.slow),
        pytest.param("hang", "graph of E1/RA: onnxruntime_perf_test was stopped after 1 s", marks=pytest.mark.slow),
        ("short", "graph of E1/RA: onnxruntime_perf_test told 1 runs instead of 6"),
        ("disconnect", f"phone '{SERIAL}': the connection broke .*what was measured is kept"),
    ],
)
def test_what_was_measured_before_is_handed_out(
    phone: FakePhone, graphs: dict[str, Path], kind: str, message: str
) -> None:
    phone.trouble(graphs["E1/RA"], kind, times=3, spare_profile=True)
    # A seed with which the other one comes first.
    settings = SETTINGS.model_copy(update={"seed": 2})
    announced: list[str] = []
    passes = phone.runner(timeout_s=1).passes(graphs, settings, announce=announced.append)
    assert set(next(passes)) == {"E1/R"}
    with pytest.raises(UserError, match=message) as caught:
        next(passes)
    assert "\n" not in str(caught.value)
    assert announced[-1] == "E1/RA"


def test_a_graph_that_crashes_at_once(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.trouble(graphs["E1/RA"], "crash", times=99)
    assert "graph of E1/RA: onnxruntime_perf_test crashed with SIGSEGV" in complaint(phone.runner(), graphs)
    assert not list(phone.disk(OWN).glob("graphs/*"))


@pytest.mark.slow
def test_a_hot_phone_is_waited_for(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.behave(thermal_status=3, cools=True)
    passes = phone.runner().passes(graphs, SETTINGS)
    assert next(passes)["E1/R"].conditions.phone.thermal_status == 0  # type: ignore[union-attr]
    first_run = next(i for i, call in enumerate(phone.calls()) if "perf_test -e" in call[-1])
    assert sum("thermalservice" in call[-1] for call in phone.calls()[:first_run]) == 4


@pytest.mark.parametrize(
    ("heat", "message"),
    [
        ({"thermal_status": 2}, "thermal status 2 (moderate), battery 28.5"),
        ({"battery_c": 46.5}, "thermal status 0 (none), battery 46.5"),
    ],
)
def test_a_phone_that_stays_hot(phone: FakePhone, graphs: dict[str, Path], heat: dict[str, Any], message: str) -> None:
    passes = phone.runner(cooling_s=0.05).passes(graphs, SETTINGS)
    next(passes)
    phone.behave(**heat)
    with pytest.raises(UserError) as caught:
        next(passes)
    assert f"phone Acme Phone 5: too hot after 0.05 s of waiting, {message}" in str(caught.value)
    assert phone.runner(cooling_s=0.05, max_thermal_status=2, max_battery_c=50.0).measure(graphs, SETTINGS)


@pytest.mark.slow
def test_a_full_phone(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.behave(free_bytes=0)
    assert "No space left on device; free some space on it" in complaint(phone.runner(), graphs)
    assert not list(phone.disk(OWN).glob("graphs/*/*"))  # what was pushed in part is removed
    phone.behave(free_bytes=None)
    passes = phone.runner().passes(graphs, SETTINGS)
    next(passes)
    phone.behave(free_bytes=0)
    with pytest.raises(UserError, match=r"failed to open result file .*free some space on it"):
        next(passes)


def test_a_folder_that_may_not_be_written(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.behave(read_only=True)
    assert "Permission denied; give a folder that adb's user may write to" in complaint(phone.runner(), graphs)


def test_operators_that_fell_back_to_the_cpu_are_refused(phone: FakePhone, graphs: dict[str, Path]) -> None:
    runner = phone.runner(provider="xnnpack")
    next(runner.passes(graphs, SETTINGS))
    assert runner.runtime == "onnxruntime-xnnpack"
    assert runner.placement["E1/RA"] == {"XnnpackExecutionProvider": 2}
    assert "-C 'session.disable_cpu_ep_fallback|1'" in commands(phone)[-1]
    phone.behave(falls_back="refused")
    assert "graph of E1/R: not all of it would run on XnnpackExecutionProvider" in complaint(runner, graphs)
    phone.behave(falls_back="profile")  # a version of the tool that lets it pass
    said = complaint(runner, {"E1/RA": graphs["E1/RA"]})
    assert "graph of E1/RA: MatMul on CPUExecutionProvider instead of all on XnnpackExecutionProvider" in said


def test_a_provider_that_the_tool_was_built_without(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.behave(providers=["cpu"])
    assert "provider: nnapi is not in the onnxruntime_perf_test" in complaint(phone.runner(provider="nnapi"), graphs)


@pytest.mark.slow
def test_nnapi_does_not_take_its_own_cpu(phone: FakePhone, graphs: dict[str, Path]) -> None:
    runner = phone.runner(provider="nnapi", precision="float16")
    next(runner.passes(graphs, SETTINGS))
    assert "-i 'NNAPI_FLAG_CPU_DISABLED NNAPI_FLAG_USE_FP16'" in commands(phone)[-1]


@pytest.mark.slow
def test_qnn_with_its_backend(phone: FakePhone, graphs: dict[str, Path]) -> None:
    assert 'library "libQnnHtp.so" not found' in complaint(phone.runner(provider="qnn"), graphs)
    phone.write("/vendor/lib64/libQnnHtp.so", "the backend")
    runner = phone.runner(
        provider="qnn", backend_path="/vendor/lib64/libQnnHtp.so", options={"htp_performance_mode": "burst"}
    )
    next(runner.passes(graphs, SETTINGS))
    assert (runner.precision, runner.placement["E1/R"]) == ("float16", {"QNNExecutionProvider": 1})
    assert f"LD_LIBRARY_PATH={FOLDER}:/vendor/lib64 ADSP_LIBRARY_PATH=/vendor/lib64" in commands(phone)[-1]
    assert "backend_path|/vendor/lib64/libQnnHtp.so htp_performance_mode|burst" in commands(phone)[-1]


def test_no_program_on_the_phone(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.disk(BINARY).unlink()
    assert f"perf_test: there is no program {BINARY} on the phone; push" in complaint(phone.runner(), graphs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "cuda"}, "provider: 'cuda' is not known; legal are cpu, xnnpack, nnapi, qnn"),
        ({"provider": "qnn", "precision": "float32"}, "precision: 'float32' does not run on qnn; legal are float16"),
        ({"backend_path": "/a/libQnnHtp.so"}, "backend_path: .* is for provider qnn"),
        ({"folder": "sdcard"}, "folder: 'sdcard' is no path on the phone"),
        ({"perf_test": "no/such/file"}, "perf_test: 'no/such/file' is no file here and no path on the phone"),
        ({"timeout_s": 0.0}, "timeout_s: 0 is not legal"),
        ({"colour": "red"}, "option 'colour' is not known"),
    ],
)
def test_options_that_are_not_legal(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_runner("adb", **options)


def test_an_option_that_a_shell_would_act_on(phone: FakePhone, graphs: dict[str, Path]) -> None:
    runner = phone.runner(provider="qnn", options={"soc_model": "1; reboot"})
    assert "argument for the phone" in complaint(runner, graphs)


def worker(phone: FakePhone, graphs: dict[str, Path]) -> GroupWorker:
    spec = RunnerSpec(name="adb", options={"adb": str(phone.adb), "poll_s": 0.01})
    return GroupWorker(spec, graphs, SETTINGS, None, timeout_s=60)


@pytest.mark.slow
def test_a_worker_that_is_done_leaves_the_phone_clean(phone: FakePhone, graphs: dict[str, Path]) -> None:
    with worker(phone, graphs) as group:
        made = group.next_pass()
        assert isinstance(made, Pass)
        assert made.placement["E1/RA"] == {"CPUExecutionProvider": 2}
        assert list(phone.disk(OWN).glob("graphs/*"))
    assert not list(phone.disk(OWN).glob("graphs/*"))
    assert not list(phone.disk(OWN).glob("runs/*"))


@pytest.mark.slow
def test_a_phone_that_goes_away_is_no_subjects_fault(phone: FakePhone, graphs: dict[str, Path]) -> None:
    phone.trouble(graphs["E1/RA"], "disconnect", times=1, spare_profile=True)
    with worker(phone, graphs) as group:
        made = group.next_pass()
        broken = group.next_pass() if isinstance(made, Pass) else made  # the pass holds what came before, if anything
    assert isinstance(broken, Broken)
    assert (broken.subject, broken.fault) == (None, "refused")
    assert "the connection broke" in broken.reason
    phone.connect({SERIAL: "device"})
    assert phone.runner().measure(graphs, SETTINGS).keys() == graphs.keys()
    assert not list(phone.disk(OWN).glob("graphs/*"))
