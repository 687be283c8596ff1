"""One run, followed through its files."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nas.config import Recipe
from nas.live.results import Bounds, Results
from nas.live.status import Calibration, Driver, Failure, Proposed, RunStatus, State, Step, Worker
from nas.live.study_tail import StudyTail, Trial
from nas.run.directory import RunDirectory
from nas.run.prior_facts import prior_facts
from nas.run.progress_file import RunProgress, read_progress, seconds_since
from nas.search.presence import WorkerState, read_workers

NUM_PROPOSALS = 12
_WHY = ("initial", "improvement", "random")


class LiveRun:
    """Reads what a run's files say now; each reading costs what was added since the last.

    Args:
        path: the run's folder.

    Raises:
        UserError: no run there.
    """

    def __init__(self, path: Path | str) -> None:
        self.directory = RunDirectory(path)
        self._stamp = 0
        self._recipe = self.directory.recipe()
        self.results = Results(self.directory.store)
        self.study = StudyTail(self.directory.path / "study.log")
        self._front: tuple[int, np.ndarray[Any, Any]] = (-1, np.empty(0, bool))

    @property
    def recipe(self) -> Recipe:
        """As the run goes on with it: budgets and the number of candidates may change."""
        try:
            stamp = self.directory.config.stat().st_mtime_ns
        except OSError:
            return self._recipe
        if stamp != self._stamp:
            self._recipe, self._stamp = self.directory.recipe(), stamp
        return self._recipe

    @property
    def bounds(self) -> Bounds | None:
        """(least, largest) latency and parameters of the space, once they are known."""
        try:
            data = json.loads((self.directory.path / "space.json").read_text(encoding="utf-8"))
            (a, b), (c, d) = data["latency_ms"], data["num_params"]
            return (float(a), float(b)), (float(c), float(d))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def on_front(self) -> np.ndarray[Any, Any]:
        """Mask (n,) of the finished candidates that none beats."""
        from nas.pareto import front

        if self._front[0] != len(self.results.values):
            self._front = (len(self.results.values), front(self.results.values))
        return self._front[1]

    def status(self, now: float | None = None) -> RunStatus:
        """How the run is doing.

        Args:
            now: seconds of the epoch; default: now.

        Raises:
            UserError: a record of the store, or the recipe, that is damaged.
        """
        now = time.time() if now is None else now
        directory, results = self.directory, self.results
        recipe, progress, locked = self.recipe, read_progress(directory.progress), directory.is_locked()
        results.refresh()
        self.study.refresh()
        counts = {str(outcome): num for outcome, num in results.store.counts().items()}
        total = recipe.search.num_candidates + results.num_reused
        state = _state(progress, locked, directory.report.is_file())
        workers = self._workers(now) if state == "running" else ()
        evaluating = sum(worker.doing == "evaluating" for worker in workers)
        per_second = results.per_second(_session(progress), now if state == "running" else None, done_only=True)
        mean_s = results.mean_seconds()
        if per_second is None and mean_s:
            per_second = (evaluating or recipe.search.workers) / mean_s
        step = _step(progress, now, state == "running")
        if step is not None and step.name == "search":
            # Those stopped at a rung count for the total, but not for the speed.
            done = counts["done"] + counts["stopped"]
            speed = per_second * done / counts["done"] if per_second and counts["done"] else None
            remaining = max(0, total - done) / speed if state == "running" and speed else None
            step = step.model_copy(update={"done": done, "total": total, "remaining_s": remaining})
        history = results.history(self.bounds)
        trials = self.study.last(len(self.study.trials))
        return RunStatus(
            run=str(directory.path),
            name=recipe.name,
            state=state,
            reason=progress.reason if progress and state == "stopped" else None,
            resume=f"nanosd resume {directory.path}" if state in ("stopped", "killed") else None,
            teacher=recipe.teacher,
            space=recipe.space,
            sampler=recipe.search.sampler,
            driver=Driver(
                alive=state == "running",
                pid=progress.pid if progress else None,
                host=progress.host if progress else None,
            ),
            phase=step,
            phase_seconds=directory.seconds(),
            outcomes=counts,
            candidates_done=counts["done"],
            candidates_failed=counts["failed"],
            candidates_total=total,
            candidates_reused=results.num_reused,
            front_size=len(np.unique(results.values[self.on_front()], axis=0)),
            hypervolume=float(history[-1]) if len(history) else 0.0,
            evaluations_per_minute=None if per_second is None else 60 * per_second,
            seconds_per_evaluation=mean_s,
            workers_wanted=recipe.search.workers,
            workers=workers,
            failures=_failures(results),
            proposals=tuple(proposed(trial, recipe.search.sampler) for trial in trials[:NUM_PROPOSALS]),
            calibration=_calibration(trials),
            report=str(directory.report) if directory.report.is_file() else None,
            notes=self._notes(),
            prior=None if (prior := prior_facts(results.store)) is None else prior._asdict(),
        )

    def _notes(self) -> tuple[str, ...]:
        log = self.directory.path / "study.log"
        if self.results.num and not log.is_file():
            return ("study.log is not there: the reasons of proposals are not known; resuming makes it anew",)
        if self.results.num and not self.study.trials:
            return ("study.log cannot be read: the reasons of proposals are not known; resuming makes it anew",)
        return ()

    def _workers(self, now: float) -> tuple[Worker, ...]:
        found = []
        for state in read_workers(self.directory.store):
            if _is_gone(state):
                continue
            record = None if state.trial is None else self.results.store.find_trial(state.trial)
            trial = self.study.named(state.trial)
            busy = state.doing == "evaluating" and record is None and not (trial is not None and trial.ended)
            since = state.since if record is None else record.finished_at
            found.append(
                Worker(
                    worker=state.worker,
                    doing="evaluating" if busy else "starting" if state.doing == "starting" else "waiting",
                    seconds=seconds_since(since, now) or 0.0,
                    candidate=state.candidate if busy else None,
                    options=state.options if busy else {},
                    latency_ms=state.latency_ms if busy else None,
                    num_params=state.num_params if busy else None,
                    predicted=trial.predicted if busy and trial is not None else None,
                    prior=state.prior if busy else None,
                )
            )
        return tuple(found)


def proposed(trial: Trial, sampler: str) -> Proposed:
    """A trial of a study with this sampler in the words of a status."""
    proposal = trial.attrs.get("proposal")
    phase = proposal.get("phase") if isinstance(proposal, dict) else None
    reason = trial.attrs.get("reason")
    return Proposed(
        trial=trial.number,
        candidate=str(trial.attrs["candidate"]),
        words=str(trial.attrs.get("words", "")),
        # `ehvi` gives its reasons, so that it was not asked about one without.
        why=phase if phase in _WHY else "queue" if sampler == "ehvi" else "unsaid",
        expected_improvement=trial.reason_number("expected_improvement"),
        hypervolume=trial.reason_number("hypervolume"),
        predicted=trial.predicted,
        state=_came_to(trial),
        measured=trial.measured,
        reason=None if reason is None else str(reason),
    )


def _came_to(trial: Trial) -> Literal["open", "done", "stopped", "failed"]:
    if not trial.ended:
        return "open"
    return "stopped" if trial.stopped else "failed" if trial.measured is None else "done"


def _state(progress: RunProgress | None, locked: bool, reported: bool) -> State:
    if progress is None:  # a run of a version that did not say, or one that never began
        return "running" if locked else "finished" if reported else "stopped"
    if progress.ended is not None:  # held by another command then, such as an export
        return progress.ended
    return "running" if locked else "killed"


def _session(progress: RunProgress | None) -> float | None:
    """When the driver of the sweep began, seconds of the epoch."""
    since = None if progress is None else seconds_since(progress.started_at, time.time())
    return None if since is None else time.time() - since


def _step(progress: RunProgress | None, now: float, running: bool) -> Step | None:
    if progress is None or progress.phase is None:
        return None
    phase = progress.phase
    seconds = seconds_since(phase.started_at, now) or 0.0
    if not running:
        seconds = max(0.0, seconds - (seconds_since(phase.updated_at, now) or 0.0))
    worked, remaining = phase.done - phase.skipped, None
    if running and phase.total is not None and worked > 0:
        # At the speed when it was last heard of, less what has passed since.
        late = seconds_since(phase.updated_at, now) or 0.0
        remaining = max(0.0, (seconds - late) / worked * max(0, phase.total - phase.done) - late)
    note = ", ".join(f"{name.replace('_', ' ')} {_number(value)}".strip() for name, value in phase.counts.items())
    return Step(name=phase.name, done=phase.done, total=phase.total, seconds=seconds, remaining_s=remaining, note=note)


def _failures(results: Results) -> tuple[Failure, ...]:
    return tuple(
        Failure(outcome=group.outcome, reason=group.reason, num_candidates=group.num, example=group.candidate)
        for group in results.groups()
    )


def _calibration(trials: list[Trial]) -> Calibration | None:
    pairs = [(t.predicted, t.measured) for t in trials]
    inside = [p[0] <= m <= p[2] for p, m in pairs if p is not None and m is not None]
    return Calibration(num=len(inside), within=sum(inside)) if inside else None


def _is_gone(state: WorkerState) -> bool:
    """Whether the worker's process is known to have ended; on other machines nobody can know."""
    if state.host != socket.gethostname():
        return False
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _number(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
