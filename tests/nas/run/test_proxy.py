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
from nas.fidelity.proxy_record import FILE, MEASURES, Proxy, read_proxy
from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.run.evaluate import make_evaluator
from nas.run.proxy import _begin, choose, proxy
from nas.run.reuse import check_sources
from nas.search.evaluation import Evaluation, PartialResult
from nas.search.stopping import EARLY_STOPPING
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble
from tests.commands import exit_code, start
from tests.trained_run import record

STEPS = 4


def with_steps(run: RunContext, steps: int) -> RunContext:
    """The same run as if its recipe had said so; of several workers each lets go of the teacher's text encoder."""
    search = run.recipe.search.model_copy(update={"distill_steps": steps, "workers": 2 if steps else 1})
    run.directory.config.write_text(
        json.dumps(run.recipe.model_copy(update={"search": search}).model_dump(mode="json"))
    )
    return RunContext.open(run.directory.path)


def test_a_distilled_candidate_scores_as_it_does_when_it_is_finalized(trained_run: RunContext, tmp_path: Path) -> None:
    from nas.distill.align import align

    candidate = Candidate.from_id(record(trained_run, 5, 0.0).candidate, trained_run.space.stages)
    student = assemble(trained_run.teacher.unet, candidate, trained_run.blocks)
    settings = trained_run.align_settings
    aligned = align(
        trained_run.teacher,
        student,
        trained_run.batches(settings.batch_size),
        settings,
        tmp_path,
        trained_run.dataset.key,
    )
    wanted = trained_run.evaluator.evaluate(aligned.student)
    try:
        evaluate = make_evaluator(str(with_steps(trained_run, STEPS).directory.path))
    finally:
        with_steps(trained_run, 0)
    *rungs, metrics = list(evaluate(candidate))
    assert [rung.steps for rung in rungs if isinstance(rung, PartialResult)] == [0, 1, 2]
    # By rounding only: weights that processes share lie elsewhere in memory.
    assert metrics == {name: pytest.approx(getattr(wanted, name), rel=1e-4) for name in MEASURES}
    # The first rung is the candidate as it is assembled, on a quarter of the samples, of which it needs two.
    raw = trained_run.evaluator.evaluate(student)
    first: Any = rungs[0]
    assert first.metrics["latent_error"] == pytest.approx(np.mean(raw.latent_errors[:2]))
    assert first.metrics["noise_error"] == pytest.approx(raw.noise_error)
    assert metrics["noise_error"] != pytest.approx(raw.noise_error)


def test_a_candidate_that_diverges_fails_with_its_reason(trained_run: RunContext) -> None:
    try:
        evaluate = make_evaluator(str(with_steps(trained_run, STEPS).directory.path))
    finally:
        with_steps(trained_run, 0)
    broken: Any = evaluate.__closure__
    blocks = next(
        c.cell_contents for c in broken if isinstance(c.cell_contents, dict) and ("E2", "R") in c.cell_contents
    )
    with torch.no_grad():
        next(blocks["E2", "R"].parameters()).fill_(float("nan"))
    planned = next(r for r in (record(trained_run, row, 0.0) for row in range(8)) if r.options["E2"] == "R")
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


def say(*arguments: str | Path | int, code: int = 0) -> tuple[str, str]:
    """What `nanosd proxy` prints and says, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        assert run_app(app, ["proxy", *map(str, arguments)]) == code, err.getvalue()
    return out.getvalue(), err.getvalue()


def without_times(found: Proxy | None) -> Any:
    assert found is not None
    tree = found.model_dump(exclude={"teacher_seconds", "teacher_passes"})
    for candidate in tree["candidates"]:
        for measured in candidate["measured"]:
            measured.pop("seconds"), measured.pop("evaluation_seconds")
    return tree


def test_brief_and_long_scores_are_measured_once(trained_run: RunContext) -> None:
    folder = trained_run.directory.path
    path = folder / FILE
    found = proxy(folder, 2, [1], 3, Progress(silent=True))
    assert [c.candidate for c in found.candidates] == [record(trained_run, row, 0.0).candidate for row in (0, 2)]
    assert [[m.steps for m in c.measured] for c in found.candidates] == [[0, 1, 3]] * 2 and len(found.complete) == 2
    candidate = Candidate.from_id(found.candidates[1].candidate)
    raw = trained_run.evaluator.evaluate(assemble(trained_run.teacher.unet, candidate, trained_run.blocks, copy=False))
    first = found.candidates[1].measured[0]
    assert (first.latent_error, first.noise_error, first.tafid) == (raw.latent_error, raw.noise_error, raw.tafid)
    assert read_proxy(folder) == found
    # What a kill left out is measured again, and only that; more steps and candidates are added.
    tree = json.loads(path.read_text())
    tree["candidates"][1]["measured"] = tree["candidates"][1]["measured"][:1]
    path.write_text(json.dumps(tree))
    printed = json.loads(say(folder, "--candidates", 4, "--steps", 2, "--steps", 1, "--long-steps", 3, "--json")[0])
    again = Proxy.model_validate(printed["proxy"])
    assert again == read_proxy(folder) and again.steps == (1, 2) and len(again.complete) == 4
    assert again.candidates[0].measured[1] == found.candidates[0].measured[1]
    kept = without_times(again)["candidates"][:2]
    for one in kept:
        one["measured"] = tuple(m for m in one["measured"] if m["steps"] != 2)
    assert tuple(kept) == without_times(found)["candidates"]
    assert {row["steps"] for row in printed["agreement"]} == {0, 1, 2}
    # Everything is there: nothing is trained again.
    before = path.read_bytes()
    out, err = say(folder, "--candidates", 4, "--steps", 1, "--steps", 2, "--long-steps", 3)
    assert path.read_bytes() == before
    assert "Kendall" in out and "costs: 1 steps" in out and str(path) in out
    assert err.count("warning: ") == len(printed["warnings"])
    # Of other blocks or settings nothing is taken over.
    path.write_text(json.dumps(tree | {"key": "other", "teacher_seconds": 9e9}))
    afresh = _begin(trained_run, [record(trained_run, 3, 0.4)], (1,), 3)
    assert [c.measured for c in afresh.candidates] == [()] and afresh.teacher_seconds == 0
    path.unlink()


def test_what_cannot_be_compared_is_said_in_one_line(trained_run: RunContext, tmp_path: Path) -> None:
    path = trained_run.directory.path
    for arguments, words in (
        ((tmp_path / "none",), "no folder with a config.yaml there"),
        ((path, "--steps", 5, "--long-steps", 5), "--long-steps 5 is no longer than --steps 5"),
        ((path, "--candidates", 3), "Invalid value for '--candidates'"),
    ):
        err = say(*arguments, code=2)[1]
        assert words in err and err.count("\n") == 1
    few = RunContext(trained_run.recipe, RunDirectory(tmp_path / "few"))
    few.directory.create(few.recipe)
    few.store.extend([record(trained_run, row, 0.5) for row in range(3)])
    err = say(tmp_path / "few", code=2)[1]
    assert "3 candidates are evaluated, ranks need at least 4; go on with the search: nanosd resume" in err


@pytest.mark.slow
def test_a_killed_proxy_goes_on_to_the_same_figures(trained_run: RunContext) -> None:
    path = trained_run.directory.path / FILE
    arguments = ("proxy", trained_run.directory.path, "--candidates", 4, "--steps", 1, "--long-steps", 6)
    arguments = tuple(map(str, arguments))
    path.unlink(missing_ok=True)
    assert exit_code(start(*arguments)) == 0
    whole = without_times(read_proxy(trained_run.directory.path))
    path.unlink()
    for most in (1, 4, 9):
        process = start(*arguments)
        deadline = time.monotonic() + 200

        def measured() -> int:
            found = read_proxy(trained_run.directory.path)
            return 0 if found is None else sum(len(c.measured) for c in found.candidates)

        while measured() < most and process.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and measured() >= most
    assert measured() < 12
    assert exit_code(start(*arguments)) == 0
    assert without_times(read_proxy(trained_run.directory.path)) == whole
