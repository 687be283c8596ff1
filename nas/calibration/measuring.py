"""Calibration of this machine within a budget: what tells most is measured, a batch at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latency_predictors.subject_names import BASE
from nas.calibration.given import Given, fit, read
from nas.calibration.proposing import Outcome, Plan, earlier_profile, proposals, stop_reason
from nas.calibration.spec import remarks
from nas.calibration.target import Target
from nas.calibration.work import work_folder
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.measuring import GroupSettings
    from latency_predictors.runners import RunnerSpec
    from nas.progress import Progress


def measure(
    given: Given,
    target: Target,
    plan: Plan,
    out: Path,
    runner: RunnerSpec,
    settings: GroupSettings,
    progress: Progress,
) -> Outcome:
    """Measures until the target is met or the budget spent; the profile at `out` is new after each batch.

    Every pass is on the disk before the next begins, in the folder `out`.work/budget: after a kill the same call goes
    on from there. Measurements in `given` and of the profile that is at `out` already count as measured.

    Raises:
        UserError: as `given.read`, a profile of another device at `out`, and what the runner refuses.
    """
    from latency_predictors.journal import Journal
    from latency_predictors.measuring import measure_all
    from latency_predictors.teacher_graphs import TeacherGraphs
    from latency_predictors.training import Training
    from nas.atomic import ensure_writable
    from nas.folder_lock import folder_lock

    made = runner.make()
    facts = {name: getattr(made, name) for name in ("device", "runtime", "precision", "threads")}
    given = given.with_facts(facts)
    earlier = earlier_profile(out)
    if earlier is not None:
        earlier.check(target.space, latent_size=target.shapes.latent_size)
        different = [name for name, value in facts.items() if getattr(earlier, name) not in (None, value)]
        if different:
            own = getattr(earlier, different[0])
            raise UserError(
                f"{out} is a profile of {different[0]} {own!r}, not {facts[different[0]]!r}; give another --out"
            )
    known = read(given, target, earlier)
    # Apart from the files of a calibration that measures everything: its graphs have the teacher's weights.
    folder = work_folder(out)
    work = folder / "budget"
    ensure_writable(work)
    with folder_lock(folder, f"calibration in {folder}"):
        journal = Journal(work / "measurements.jsonl", _context(target, {**facts, "options": runner.context}))
        graphs = TeacherGraphs(target.subjects)
        journal.retry(list(journal.failed))
        profile = None
        with progress.phase("calibrate", plan.budget) as phase:
            phase.skip(len({*journal.finished, *known.training.parts, *known.training.networks}))
            while True:
                own = journal.measurements()
                training = Training(
                    {**known.training.parts, **{n: m for n, m in own.items() if _is_part(n)}},
                    {**known.training.networks, **{n: m for n, m in own.items() if not _is_part(n)}},
                )
                done = [*training.parts, *training.networks]
                if done or given.spec:
                    profile = fit(given, target, known.with_training(training))
                    profile.save(out)
                end = stop_reason(profile, len(done), plan)
                new = [] if end else _next(target, plan, done, journal.failed)
                if not new:
                    break
                start = phase.done

                def report(finished: int, _total: int, note: str, start: int = start, before: int = len(own)) -> None:
                    phase.advance(max(start + finished - before - phase.done, 0), **{"": note})

                measure_all([*own, *new], graphs, runner, settings, journal, work / "graphs", report)
            phase.advance(0, **{"": ""})
        lines = [*known.lines, *(f"{name} cannot be measured: {reason}" for name, reason in journal.failed.items())]
        if profile is not None:
            lines += [f"warning: {line}" for line in remarks(given.spec, profile)]
        return Outcome(profile, end or "everything that can be proposed is measured", lines=tuple(lines))


def _next(target: Target, plan: Plan, done: Sequence[str], failed: Collection[str]) -> list[str]:
    """The next batch; what failed is not tried again in this call, and takes nothing of the budget."""
    offered = proposals(target, plan.measure, done, min(plan.batch, plan.budget - len(done)) + len(failed))
    return [name for name in offered if name not in failed][: min(plan.batch, plan.budget - len(done))]


def _is_part(name: str) -> bool:
    return name == BASE or "/" in name


def _context(target: Target, facts: dict[str, object]) -> dict[str, object]:
    shapes = target.shapes
    sizes = {"latent_size": shapes.latent_size, "num_tokens": shapes.num_tokens, "context_dim": shapes.context_dim}
    return {"teacher": shapes.spec, "space": target.space.name, **sizes, **facts}
