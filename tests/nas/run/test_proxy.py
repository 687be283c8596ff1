"""Candidates that are distilled before they are compared, and the report on what such scores are worth."""

from __future__ import annotations

import io
import json
import signal
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.cli import app
from experiments.exits import run_app
from nas.config import load_recipe, recipe_hash
from nas.fidelity.proxy_record import FILE, Proxy, read_proxy
from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.run.evaluate import make_evaluator
from nas.run.proxy import choose, proxy
from nas.run.reuse import check_sources
from nas.search.evaluation import Evaluation, PartialResult
from nas.search.stopping import EARLY_STOPPING
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble
from tests.commands import exit_code, start
from tests.trained_run import make_run, record

STEPS = 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """A run of eight candidates with trained blocks, six of them "evaluated" with made-up errors."""
    return make_run(tmp_path_factory.mktemp("proxy"))


def with_steps(run: RunContext, steps: int) -> RunContext:
    """The same run as if its recipe had said so."""
    search = run.recipe.search.model_copy(update={"distill_steps": steps})
    run.directory.config.write_text(
        json.dumps(run.recipe.model_copy(update={"search": search}).model_dump(mode="json"))
    )
    return RunContext.open(run.directory.path)


def test_a_distilled_candidate_scores_as_it_does_when_it_is_finalized(trained: RunContext, tmp_path: Path) -> None:
    from nas.distill.align import align

    candidate = Candidate.from_id(record(trained, 5, 0.0).candidate, trained.space.stages)
    student = assemble(trained.teacher.unet, candidate, trained.blocks)
    settings = trained.align_settings
    aligned = align(
        trained.teacher, student, trained.batches(settings.batch_size), settings, tmp_path, trained.dataset.key
    )
    wanted = trained.evaluator.evaluate(aligned.student)
    try:
        evaluate = make_evaluator(str(with_steps(trained, STEPS).directory.path))
    finally:
        with_steps(trained, 0)
    *rungs, metrics = list(evaluate(candidate))
    assert [rung.steps for rung in rungs if isinstance(rung, PartialResult)] == [0, 1, 2]
    assert metrics == {"latent_error": wanted.latent_error, "noise_error": wanted.noise_error, "tafid": wanted.tafid}
    # The first rung is the candidate as it is assembled, on a quarter of the samples, of which it needs two.
    raw = trained.evaluator.evaluate(student)
    first: Any = rungs[0]
    assert first.metrics["latent_error"] == pytest.approx(np.mean(raw.latent_errors[:2]))
    assert first.metrics["noise_error"] == pytest.approx(raw.noise_error)
    assert metrics["noise_error"] != pytest.approx(raw.noise_error)
    # What is not asked for is not computed: a stopped candidate costs no further step.
    begun = evaluate(candidate)
    next(iter(begun))


def test_a_candidate_that_diverges_fails_with_its_reason(trained: RunContext) -> None:
    try:
        evaluate = make_evaluator(str(with_steps(trained, STEPS).directory.path))
    finally:
        with_steps(trained, 0)
    broken: Any = evaluate.__closure__
    blocks = next(
        c.cell_contents for c in broken if isinstance(c.cell_contents, dict) and ("E2", "R") in c.cell_contents
    )
    with torch.no_grad():
        next(blocks["E2", "R"].parameters()).fill_(float("nan"))
    planned = next(r for r in (record(trained, row, 0.0) for row in range(8)) if r.options["E2"] == "R")
    candidate = Candidate(options=planned.options)
    found: Any = Evaluation(planned, lambda: evaluate(candidate), "latent_error").advance()
    assert found.outcome == "failed" and "latent_error" in (found.reason or "")


def test_no_steps_leave_recipes_and_their_hashes_alone(tmp_path: Path) -> None:
    plain = load_recipe(None)
    assert recipe_hash(load_recipe(None, ["search.distill_steps=0"])) == recipe_hash(plain)
    assert recipe_hash(load_recipe(None, ["search.distill_steps=1"])) != recipe_hash(plain)
    for policy in EARLY_STOPPING:
        assert recipe_hash(load_recipe(None, [f"search.early_stopping={policy}"])) == recipe_hash(plain)

    def context(name: str, *fields: str) -> RunContext:
        run = RunContext(load_recipe(None, list(fields)), RunDirectory(tmp_path / name))
        run.directory.create(run.recipe)
        return run

    context("old", "search.distill_steps=9", "finalize.learning_rate=1e-4")
    for fields, key in (((), "search.distill_steps"), (("search.distill_steps=9",), "finalize.learning_rate")):
        with pytest.raises(UserError, match=f"has {key} = "):
            check_sources(context(f"new {key}", f"reuse=[{tmp_path / 'old'}]", *fields))


@pytest.mark.parametrize("num", [4, 16, 40, 80])
def test_the_sample_is_of_the_fronts_better_half(num: int) -> None:
    rng = np.random.default_rng(num)
    values = rng.random((60, 3))

    def beaten(i: int) -> bool:
        return any((values[j] <= values[i]).all() and (values[j] < values[i]).any() for j in range(60))

    on_front = [i for i in range(60) if not beaten(i)]
    limit = np.median(values[on_front, 0])
    better = [i for i in on_front if values[i, 0] <= limit]
    chosen = choose(values, num, seed=0)
    assert chosen == choose(values, num, seed=0) and len(set(chosen)) == len(chosen) == min(num, 60)
    assert list(values[chosen, 0]) == sorted(values[chosen, 0])
    within = int((values[:, 0] <= limit).sum())
    assert all(values[i, 0] <= limit for i in chosen) or num > within
    assert set(chosen) <= set(better) if num <= len(better) else set(chosen) >= set(better)


def small_proxy(run: RunContext, *steps: int, long: int = 3) -> Proxy:
    return proxy(run.directory.path, 4, steps, long, Progress(silent=True))


def without_times(found: Proxy | None) -> Any:
    assert found is not None
    tree = found.model_dump(exclude={"teacher_seconds", "teacher_passes"})
    for candidate in tree["candidates"]:
        for measured in candidate["measured"]:
            measured.pop("seconds"), measured.pop("evaluation_seconds")
    return tree


def test_brief_and_long_scores_are_measured_once(trained: RunContext) -> None:
    path = trained.directory.path / FILE
    found = small_proxy(trained, 1)
    assert [c.candidate for c in found.candidates] == [record(trained, row, 0.0).candidate for row in range(4)]
    assert [[m.steps for m in c.measured] for c in found.candidates] == [[0, 1, 3]] * 4 and len(found.complete) == 4
    raw = trained.evaluator.evaluate(
        assemble(trained.teacher.unet, Candidate.from_id(found.candidates[2].candidate), trained.blocks, copy=False)
    )
    first = found.candidates[2].measured[0]
    assert (first.latent_error, first.noise_error, first.tafid) == (raw.latent_error, raw.noise_error, raw.tafid)
    assert read_proxy(trained.directory.path) == found
    # Everything is there: nothing is trained again. What a kill left out is, and only that; more steps are added.
    before = path.read_bytes()
    small_proxy(trained, 1)
    assert path.read_bytes() == before
    tree = json.loads(before)
    tree["candidates"][1]["measured"] = tree["candidates"][1]["measured"][:1]
    tree["candidates"] = tree["candidates"][:2]
    path.write_text(json.dumps(tree))
    again = small_proxy(trained, 2, 1)
    assert again.steps == (1, 2) and again.candidates[0].measured[1] == found.candidates[0].measured[1]
    wanted = without_times(found)
    for candidate in (kept := without_times(again))["candidates"]:
        candidate["measured"] = tuple(m for m in candidate["measured"] if m["steps"] != 2)
    assert kept["candidates"] == wanted["candidates"]
    # Of other blocks or settings nothing is taken over.
    path.write_text(json.dumps(tree | {"key": "other", "teacher_seconds": 9e9}))
    assert without_times(small_proxy(trained, 1)) == wanted


def test_what_the_command_says(trained: RunContext, tmp_path: Path) -> None:
    def say(*arguments: str | Path, code: int = 0) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            assert run_app(app, ["proxy", *map(str, arguments)]) == code, err.getvalue()
        return out.getvalue(), err.getvalue()

    path = trained.directory.path
    small_proxy(trained, 1)
    found = json.loads(say(path, "--candidates", 4, "--steps", 1, "--long-steps", 3, "--json")[0])
    assert {row["steps"] for row in found["agreement"]} == {0, 1} and len(found["proxy"]["candidates"]) == 4
    out, err = say(path, "--candidates", 4, "--steps", 1, "--long-steps", 3)
    assert "Kendall" in out and "1 steps" in out and str(path / FILE) in out
    assert err.count("warning: ") == len(found["warnings"])
    for arguments, words in (
        ((tmp_path / "none",), "no folder with a config.yaml there"),
        ((path, "--steps", 5, "--long-steps", 5), "--long-steps 5 is no longer than --steps 5"),
        ((path, "--candidates", 3), "Invalid value for '--candidates'"),
    ):
        err = say(*arguments, code=2)[1]
        assert words in err and err.count("\n") == 1
    few = RunContext(trained.recipe, RunDirectory(tmp_path / "few"))
    few.directory.create(few.recipe)
    few.store.extend([record(trained, row, 0.5) for row in range(3)])
    err = say(tmp_path / "few", code=2)[1]
    assert "3 candidates are evaluated, ranks need at least 4; go on with the search: nanosd resume" in err


@pytest.mark.slow
def test_a_killed_proxy_goes_on_to_the_same_figures(trained: RunContext) -> None:
    path = trained.directory.path / FILE
    arguments = ("proxy", trained.directory.path, "--candidates", 4, "--steps", 1, "--long-steps", 6)
    arguments = tuple(map(str, arguments))
    path.unlink(missing_ok=True)
    assert exit_code(start(*arguments)) == 0
    whole = without_times(read_proxy(trained.directory.path))
    path.unlink()
    for most in (1, 4, 9):
        process = start(*arguments)
        deadline = time.monotonic() + 200

        def measured() -> int:
            found = read_proxy(trained.directory.path)
            return 0 if found is None else sum(len(c.measured) for c in found.candidates)

        while measured() < most and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and measured() >= most
    assert measured() < 12
    assert exit_code(start(*arguments)) == 0
    assert without_times(read_proxy(trained.directory.path)) == whole
