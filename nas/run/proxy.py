"""The proxy report: does the error after brief distillation rank candidates as the error of the finished model does?

Some candidates of the front's better half are distilled briefly and for much longer, each with its own schedule, on the
same batches; the teacher's side is computed once (:mod:`nas.distill.targets`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nas.atomic import write_json
from nas.fidelity.proxy_record import FILE, Measured, Proxy, ProxyCandidate, read_proxy
from nas.progress import Progress
from nas.run.context import RunContext
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.distill.targets import StoredTargets
    from nas.search.record import CandidateRecord

LEAST_CANDIDATES = 4
DEFAULT_STEPS = 100
LONGER = 10
# Steps between two movements of the progress line.
_TOLD = 25


def proxy(
    run_dir: Path | str,
    num: int,
    steps: Sequence[int] | None,
    long_steps: int | None,
    progress: Progress,
) -> Proxy:
    """Measure the sample, whatever of it is not there yet, and draw the run's report again.

    Args:
        run_dir: a run whose search has evaluated candidates.
        num: candidates of the sample; fewer where there are fewer.
        steps: brief distillations; None: `search.distill_steps`, else `finalize.steps`, else 100.
        long_steps: of the distillation to compare with; None: ten times the longest brief one.

    Returns:
        What `proxy.json` holds now: also candidates and steps that an earlier call measured.

    Raises:
        UserError: no such run, fewer than four evaluated candidates, steps that are not brief, or another process is
            working on the run.
    """
    run = RunContext.open(run_dir)
    brief, long = _schedules(run, steps, long_steps)
    records, values = _evaluated(run)
    chosen = [records[row] for row in choose(values, num, run.recipe.seed)]
    run.directory.check_writable()
    with run.directory.lock():
        found = _begin(run, chosen, brief, long)
        found = _measure(run, found, progress)
        _draw(run, progress)
    return found


def _schedules(run: RunContext, steps: Sequence[int] | None, long_steps: int | None) -> tuple[tuple[int, ...], int]:
    own = run.recipe.search.distill_steps or run.recipe.finalize.steps or DEFAULT_STEPS
    brief = tuple(sorted(set(steps))) if steps else (own,)
    long = LONGER * brief[-1] if long_steps is None else long_steps
    if brief[0] < 1:
        raise UserError(f"--steps {brief[0]}: at least 1; candidates without distillation are compared anyway")
    if long <= brief[-1]:
        raise UserError(
            f"--long-steps {long} is no longer than --steps {brief[-1]}; give more, ten times as many are usual"
        )
    return brief, long


def _evaluated(run: RunContext) -> tuple[list[CandidateRecord], NDArray[np.float64]]:
    store = run.store
    rows, values = store.objectives()
    if len(rows) < LEAST_CANDIDATES:
        raise UserError(
            f"run {run.directory.path}: {len(rows)} candidates are evaluated, ranks need at least {LEAST_CANDIDATES}; "
            f"go on with the search: nanosd resume {run.directory.path}"
        )
    return list(store.at(rows)), np.asarray(values, dtype=np.float64)


def choose(values: NDArray[np.float64], num: int, seed: int) -> list[int]:
    """Rows of the sample among evaluated candidates (N, 3) of (error, latency, parameters), by growing error.

    From the better half of the front, those whose error is at most the front's median: first of the front itself,
    then of the layers behind it, evenly by the rank of the error; where all these are too few, the next ones by error.
    """
    from nas.pareto import front

    left = np.arange(len(values))
    on_front = left[front(values)]
    limit = float(np.median(values[on_front, 0]))
    rng = np.random.default_rng(seed)
    within = np.flatnonzero(values[:, 0] <= limit)
    chosen: list[int] = []
    while len(chosen) < num and len(left):
        layer = left[front(values[left])]
        left = np.setdiff1d(left, layer)
        chosen += _evenly(np.intersect1d(layer, within), values[:, 0], num - len(chosen), rng)
    beyond = np.setdiff1d(np.argsort(values[:, 0], kind="stable"), within, assume_unique=True)
    chosen += [int(row) for row in beyond[: num - len(chosen)]]
    return sorted(chosen, key=lambda row: (values[row, 0], row))


def _evenly(rows: NDArray[np.int64], errors: NDArray[np.float64], num: int, rng: np.random.Generator) -> list[int]:
    """At most `num` rows, evenly spaced in the order of their errors, with one random offset."""
    ordered = rows[np.argsort(errors[rows], kind="stable")]
    if len(ordered) <= num:
        return [int(row) for row in ordered]
    places = ((np.arange(num) + rng.random()) * len(ordered) / num).astype(int)
    return [int(row) for row in ordered[places]]


def _begin(run: RunContext, chosen: Sequence[CandidateRecord], brief: tuple[int, ...], long: int) -> Proxy:
    """The record to go on with: what was measured under the same key stays."""
    settings, key = run.align_settings, _key(run)
    try:
        old = read_proxy(run.directory.path)
    except ValueError:
        old = None
    kept = {c.candidate: c for c in old.candidates} if old is not None and old.key == key else {}
    for record in chosen:
        kept.setdefault(
            record.candidate,
            ProxyCandidate(
                candidate=record.candidate, num_params=record.num_params, latency_ms=float(record.latency_ms)
            ),
        )
    same = old is not None and old.key == key
    return Proxy(
        key=key,
        steps=brief,
        long_steps=long,
        search_steps=run.recipe.search.distill_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        num_samples=run.recipe.fidelity.num_samples,
        teacher_passes=old.teacher_passes if same and old is not None else 0,
        teacher_seconds=old.teacher_seconds if same and old is not None else 0.0,
        candidates=tuple(kept.values()),
    )


def _key(run: RunContext) -> str:
    from nas.distill.results import read_results
    from nas.export.variant import content_key

    _ = run.blocks  # says in one line where there are none
    blocks = sorted(result.key for result in read_results(run.directory.blocks).values())
    settings = run.align_settings.model_copy(update={"steps": 0}).recipe()
    return content_key(run.teacher.key, run.dataset.key, blocks, settings, run.fidelity_settings.model_dump())


def _measure(run: RunContext, found: Proxy, progress: Progress) -> Proxy:
    """Every candidate after every number of steps; the file is written after each."""
    from nas.run.distilled_evaluator import stored_targets

    schedules = (0, *found.steps, found.long_steps)
    targets = stored_targets(run)
    with progress.phase("proxy", sum(schedules) * len(found.candidates)) as phase:
        for index, candidate in enumerate(found.candidates):
            for steps in schedules:
                if candidate.at(steps) is not None:
                    phase.skip(steps)
                    continue
                result = _distilled(run, candidate.candidate, steps, targets, phase.advance)
                measured = tuple(sorted((*candidate.measured, result), key=lambda m: m.steps))
                candidate = candidate.model_copy(update={"measured": measured})
                found = found.model_copy(
                    update={
                        "candidates": (*found.candidates[:index], candidate, *found.candidates[index + 1 :]),
                        **_teacher_cost(found, targets),
                    }
                )
                write_json(run.directory.path / FILE, found.model_dump(mode="json"))
            phase.advance(0, candidates=f"{len(found.complete)} of {len(found.candidates)}")
    write_json(run.directory.path / FILE, found.model_dump(mode="json"))
    return found


def _teacher_cost(found: Proxy, targets: StoredTargets) -> dict[str, float]:
    """What all passes that were needed cost; a call that goes on may need fewer of them than the one before."""
    passes, seconds = max((found.teacher_passes, found.teacher_seconds), targets.cost)
    return {"teacher_passes": passes, "teacher_seconds": round(seconds, 3)}


def _distilled(run: RunContext, name: str, steps: int, targets: StoredTargets, advance: Any) -> Measured:
    """One candidate after one distillation."""
    from nas.distill.candidate import DivergedError, distill_candidates
    from nas.fidelity.errors import FidelityError
    from nas.run.distilled_evaluator import brief_settings
    from search_spaces.candidate import Candidate
    from search_spaces.surgery import assemble

    student = assemble(run.teacher.unet, Candidate.from_id(name, run.space.stages), run.blocks, copy=False)
    settings = brief_settings(run, steps)
    told = sorted({*range(0, steps, _TOLD), steps})
    start, of_teacher, done = time.perf_counter(), targets.seconds_now, 0
    try:
        for step, copies in (  # without steps nothing need be copied
            distill_candidates(run.teacher, {name: student}, run.batches(settings.batch_size), settings, told, targets)
            if steps
            else ()
        ):
            student = copies[name]
            advance(step - done)
            done = step
        seconds = time.perf_counter() - start - (targets.seconds_now - of_teacher)
        fidelity = run.evaluator.evaluate(student)
    except (DivergedError, FidelityError) as error:
        advance(steps - done)
        return Measured(steps=steps, reason=str(error))
    return Measured(
        steps=steps,
        latent_error=fidelity.latent_error,
        noise_error=fidelity.noise_error,
        tafid=fidelity.tafid,
        seconds=round(seconds, 3) if steps else 0.0,
        evaluation_seconds=round(fidelity.seconds, 3),
    )


def _draw(run: RunContext, progress: Progress) -> None:
    """The run's page again, where it has one."""
    if run.directory.report.is_file():
        from nas.report import write_report

        with progress.phase("report", 1) as phase:
            write_report(run.directory.path)
            phase.advance()
