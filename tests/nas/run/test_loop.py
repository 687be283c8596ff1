"""The whole loop on the toy teacher, in small: killed in every phase, resumed, and nothing finished done twice."""

from __future__ import annotations

import io
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import app
from experiments.exits import run_app
from nas.block_bank import BlockBank
from nas.run.directory import RunDirectory
from tests.commands import exit_code, start

# Eight candidates; every side of the network has a choice.
SPACE = """
name: eight
options:
  E1: [RARA]
  E2: [RARA, R]
  E3: [RARA, R]
  deep: [none]
  D3: [RARARA, R]
  D2: [RARARA]
  D1: [RARARA]
"""
RECIPE = """
name: small
space: {space}
data: {{num_images: 24}}
calibration: {{warm_up: 1, min_repeats: 3, max_seconds: 2, num_fit: 3, num_check: 2}}
distill: {{steps: 6, batch_size: 4, checkpoint_every: 2}}
fidelity: {{num_samples: 4, num_noise_samples: 4, ddim_steps: 2}}
search: {{num_candidates: 6, workers: 1, sampler: random}}
finalize: {{steps: 4, batch_size: 4}}
"""

KilledRun = tuple[Path, dict[str, object]]


def here(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
    """What the command prints and says, in this process, which has imported torch already; its exit code is checked."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        returned = run_app(app, [str(each) for each in arguments])
    assert returned == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def kill_when(process: BaseProcess, reached: Callable[[], bool], what: str) -> None:
    """SIGKILL the driver at the moment when `reached` first holds."""
    deadline = time.monotonic() + 300
    try:
        while not reached():
            assert process.is_alive(), f"the run ended before it was killed in {what}"
            assert time.monotonic() < deadline, f"the run never reached {what}"
            time.sleep(0.005)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL


def finish(*arguments: str | Path) -> None:
    """Run the command to its end in a process of its own."""
    with tempfile.NamedTemporaryFile("r") as said:
        assert exit_code(start(*arguments, stderr=Path(said.name))) == 0, said.read()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> KilledRun:
    """A run killed in calibration, distillation, sweep and export, then finished; with what was there at each kill."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "space.yaml").write_text(SPACE)
    (folder / "recipe.yaml").write_text(RECIPE.format(space=folder / "space.yaml"))
    run = RunDirectory(folder / "run")
    measurements = run.work / "calibration" / "measurements.jsonl"
    seen: dict[str, object] = {}

    kill_when(
        start("search", "--config", folder / "recipe.yaml", "--run", run.path),
        lambda: len(lines(measurements)) >= 3,
        "calibration",
    )
    seen["measurements"] = lines(measurements)
    assert not run.profile.exists()

    kill_when(start("resume", run.path), (run.work / "distill.safetensors").exists, "distillation")
    seen["profile"] = run.profile.read_bytes()
    assert not run.blocks.exists()

    records = run.store / "candidates.jsonl"
    kill_when(start("resume", run.path), lambda: len(lines(records)) >= 2, "the sweep")
    seen["bank"] = {path.name: path.stat().st_mtime_ns for path in run.bank.iterdir()}
    seen["swap_table"] = run.swap_table.read_bytes()
    seen["records"] = lines(records)

    kill_when(start("resume", run.path), lambda: run.variants.exists() and any(run.variants.iterdir()), "export")
    assert not run.closing.exists()
    seen["picks"] = run.picks.read_bytes()
    seen["aligned"] = (run.work / "align.safetensors").read_bytes()

    finish("resume", run.path)
    return run.path, seen


def test_a_run_killed_in_every_phase_is_finished_by_resume(killed_run: KilledRun) -> None:
    run = RunDirectory(killed_run[0])
    rows = json.loads(run.closing.read_text())["rows"]
    assert rows[0]["pick"] == "teacher" and len(rows) >= 2
    for row in rows[1:]:
        variant = json.loads((run.variants / row["pick"] / "variant.json").read_text())
        assert variant["lineage"]["candidate"] == row["candidate"]
        assert {check["file"] for check in variant["onnx"]} == {"unet.onnx"}
    report = run.report.read_text()
    assert "plotly" in report and "http://" not in report.split("</style>")[0]
    assert (run.path / "study.log").stat().st_size > 0
    assert set(run.seconds()) >= {"prepare", "calibrate", "distill", "prior", "search", "pick", "finalize", "report"}


def test_nothing_finished_is_done_twice(killed_run: KilledRun) -> None:
    path, seen = killed_run
    run = RunDirectory(path)
    measured = lines(run.work / "calibration" / "measurements.jsonl")
    assert measured[: len(seen["measurements"]) - 1] == seen["measurements"][:-1]  # type: ignore[arg-type, index]
    finished = Counter(name for line in measured for name in json.loads(line).get("finished", []))
    # Nine options, the part that all networks share, three networks to fit and two to check.
    assert len(finished) == 9 + 1 + 3 + 2 and set(finished.values()) == {1}, finished
    assert run.profile.read_bytes() == seen["profile"]
    assert {p.name: p.stat().st_mtime_ns for p in run.bank.iterdir()} == seen["bank"]
    assert run.swap_table.read_bytes() == seen["swap_table"]
    records = [json.loads(line) for line in lines(run.store / "candidates.jsonl")]
    done = Counter(record["candidate"] for record in records if record["outcome"] == "done")
    assert len(done) == 6 and set(done.values()) == {1}, done
    earlier = [json.loads(line) for line in seen["records"]]  # type: ignore[attr-defined]
    assert records[: len(earlier)] == earlier
    assert run.picks.read_bytes() == seen["picks"]
    assert (run.work / "align.safetensors").read_bytes() == seen["aligned"]


def test_tables_front_status_and_picks_agree(killed_run: KilledRun) -> None:
    path = killed_run[0]
    parquet, csv = pd.read_parquet(path / "candidates.parquet"), pd.read_csv(path / "candidates.csv")
    assert len(parquet) == len(csv) == 6
    status = json.loads(here("status", path, "--json")[0])
    assert (status["candidates_done"], status["state"]) == (6, "finished")
    front = json.loads(here("pareto", path, "--json")[0])["front"]
    assert len(front) == status["front_size"]
    # The most faithful one within the largest predicted latency is the first of the front, sorted by error.
    slowest = str(parquet["latency_ms"].max())
    picked = json.loads(here("pick", path, "--max-latency-ms", slowest, "--json")[0])
    assert picked["latent_error"] == pytest.approx(front[0]["latent_error"])
    fewest = int(parquet["num_params"].min())
    smallest = json.loads(here("pick", path, "--rule", "prime", "--max-params", str(fewest), "--json")[0])
    assert smallest["num_params"] == fewest, "a rule chooses within the budgets"
    _, refused = here("pick", path, "--max-latency-ms", "1e-9", code=2)
    assert len(refused.strip().splitlines()) == 1


def test_any_candidate_can_be_exported(killed_run: KilledRun, tmp_path: Path) -> None:
    path = killed_run[0]
    out = tmp_path / "variant"
    candidate = "RARA-R-R-none-R-RARARA-RARARA"
    written = json.loads(here("export", path, candidate, "--out", out, "--json")[0])
    assert written["candidate"] == candidate and written["standard"] is False
    assert written["onnx_max_relative_error"]["unet.onnx"] < 1e-3
    assert (out / "variant.json").is_file()


def test_a_damaged_bank_file_is_named_and_once_deleted_trained_again(
    killed_run: KilledRun,
) -> None:
    run = RunDirectory(killed_run[0])
    before = {path.name: path.stat().st_mtime_ns for path in run.bank.iterdir()}
    victim = sorted(run.bank.glob("*.safetensors"))[0]
    content = victim.read_bytes()
    victim.write_bytes(content[:-10])
    closing = run.closing.read_bytes()
    _, refused = here("resume", run.path, code=2)
    assert str(victim) in refused.splitlines()[-1] and "delete it" in refused
    victim.unlink()
    finish("resume", run.path)
    assert run.closing.read_bytes() == closing, "variants and their measurement stay"
    assert victim.read_bytes() == content, "the same seed gives the same block"
    after = {path.name: path.stat().st_mtime_ns for path in run.bank.iterdir()}
    assert {name for name in before if before[name] != after[name]} <= {victim.name, victim.stem + ".json"}
    assert BlockBank(run.bank).has(victim.stem)


def test_the_front_is_drawn_again_for_an_npu(killed_run: KilledRun) -> None:
    path = killed_run[0]
    said = json.loads(here("retarget", path, "--device", "sm8750-w8a16", "--json")[0])
    done = pd.read_parquet(path / "candidates.parquet").set_index("id")
    assert {c["candidate"] for c in said["candidates"]} == set(done.index)
    for c in said["candidates"]:
        assert c["here"]["latency_ms"] == done["latency_ms"][c["candidate"]]
        assert c["here"]["on_front"] == done["on_front"][c["candidate"]]
        assert c["there"]["extrapolates"] and c["there"]["low_ms"] < c["there"]["latency_ms"]
    evaluated = set(done.index)
    assert len(said["promising"]) <= 2 and not evaluated & {c["candidate"] for c in said["promising"]}


def test_two_drivers_on_one_run_and_another_recipe_are_refused(killed_run: KilledRun, tmp_path: Path) -> None:
    run = RunDirectory(killed_run[0])
    with run.lock():
        assert exit_code(start("resume", run.path, stderr=tmp_path / "said")) == 2
    assert "another nanosd process" in (tmp_path / "said").read_text()
    _, other = here("search", "--run", run.path, "--set", "seed=7", code=2)
    assert "another recipe" in other


def test_a_nan_in_the_profile_is_refused_with_its_field(killed_run: KilledRun, tmp_path: Path) -> None:
    text = RunDirectory(killed_run[0]).profile.read_text()
    profile = tmp_path / "profile.json"
    measured = json.loads(text)["base"]["timing"]["median_ms"]
    profile.write_text(text.replace(f'"median_ms": {measured}', '"median_ms": NaN', 1))
    assert "NaN" in profile.read_text()
    space = RunDirectory(killed_run[0]).recipe().space
    _, refused = here("predict", profile, "RARA-R-R-none-R-RARARA-RARARA", "--space", space, code=2)
    assert len(refused.strip().splitlines()) == 1
    assert "median_ms" in refused


def test_more_candidates_and_a_budget_go_on_with_a_run(killed_run: KilledRun, tmp_path: Path) -> None:
    """Budgets and the number of candidates may change: what is finished stays, the picks follow."""
    run = RunDirectory(killed_run[0])
    records = lines(run.store / "candidates.jsonl")
    recipe = run.path.parent / "recipe.yaml"
    limit = sorted(pd.read_parquet(run.path / "candidates.parquet")["num_params"])[2]
    finish("search", "--config", recipe, "--run", run.path, "--max-params", str(limit))
    assert lines(run.store / "candidates.jsonl")[: len(records)] == records
    picks = json.loads(run.picks.read_text())
    assert picks["budget"]["num_params"] <= limit


@pytest.mark.slow
def test_another_device_and_space_reuse_blocks_and_candidates(killed_run: KilledRun, tmp_path: Path) -> None:
    """What is taken over is what the other run would measure itself, with its own latencies."""
    from nas.run.evaluate import make_evaluator
    from nas.search import CandidateStore
    from search_spaces.candidate import Candidate

    run, folder = RunDirectory(killed_run[0]), killed_run[0].parent
    space = tmp_path / "wider.yaml"
    space.write_text(SPACE.replace("name: eight", "name: wider").replace("E1: [RARA]", "E1: [RA, RARA]"))
    other = RunDirectory(tmp_path / "other")
    overrides = [f"space={space}", "calibration.profile=sm8750-w8a16", "search.num_candidates=2", "name=other"]
    options = [part for override in overrides for part in ("--set", override)]
    finish("search", "--config", folder / "recipe.yaml", "--run", other.path, *options, "--reuse", run.path)
    theirs = {r.candidate: r for r in CandidateStore(run.store).records() if r.outcome == "done"}
    records = CandidateStore(other.store).records()
    reused = [r for r in records if r.reused_from is not None]
    assert {r.candidate for r in reused} == set(theirs) and len(records) == len(reused) + 2
    evaluate = make_evaluator(str(other.path))
    for record in reused:
        was = theirs[record.candidate]
        assert list(evaluate(Candidate(options=record.options)))[-1] == record.metrics == was.metrics
        assert record.latency_ms != was.latency_ms and record.num_params == was.num_params
    # Only the option that the other run does not have was trained.
    status = {(row["stage"], row["option"]): row["status"] for row in json.loads(other.blocks.read_text())}
    assert [block for block, what in status.items() if what == "trained"] == [("E1", "RA")]
