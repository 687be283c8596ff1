"""The Ray Tune searcher: proposes candidates from the Optuna study and books how each ended."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from ray.tune.search import Searcher

from nas.pareto import FrontTracker
from nas.search import study as studies
from nas.search.ahead import Ahead, num_ahead
from nas.search.control import Control, EvaluationTimes, Limits
from nas.search.decisions import distributions, vector_of
from nas.search.pool import Pool
from nas.search.record import Rung
from nas.search.rung_decisions import RungDecisions
from nas.search.sampler import ExhaustedError, UnseenSampler
from nas.search.settings import Indices, KnownCosts, SweepSettings
from nas.search.store import CandidateRecord, CandidateStore, Outcome
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

DIED = "evaluator process died"


@dataclass
class Flight:
    """A candidate under evaluation."""

    number: int
    """Of the Optuna trial."""
    vector: Indices
    record: CandidateRecord
    rungs: list[Rung] = field(default_factory=list)
    stopped: CandidateRecord | None = None
    """Its record once it was decided to stop it, as it is in the store."""


class SweepSearcher(Searcher):
    """Proposes candidates and books results; Ray Tune calls it in the driver process only.

    Each result is in the store (the worker wrote it, this class appends it again, which does nothing if it is there)
    before it is told to the study. `stop_reason` is set when the sweep must end early.

    Candidates are proposed in a thread while workers evaluate where proposals take long (:mod:`nas.search.ahead`); a
    lock keeps that thread's study, pool and sampler from changing meanwhile.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: KnownCosts,
        settings: SweepSettings,
        store: CandidateStore,
        pool: Pool,
        study: optuna.Study,
        sampler: UnseenSampler,
        prior: Callable[[Indices], Any] | None,
        on_progress: Callable[..., None] | None,
    ) -> None:
        super().__init__()
        self.space, self.costs, self.settings = space, costs, settings
        self.store, self.pool, self.study, self.sampler = store, pool, study, sampler
        self.prior, self.on_progress = prior, on_progress
        self.flights: dict[str, Flight] = {}
        self.stop_reason: UserError | None = None
        self.callback_error: BaseException | None = None
        self.exhausted = False
        self.failed_now = 0
        self.deaths = 0
        self.control: Control | None = None
        self.workers = settings.workers
        """Evaluations at the same time: fewer than wanted where the cluster has no room for more."""
        self.per_node = settings.workers
        self._died: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ahead = Ahead(self._propose)
        self._times = EvaluationTimes(settings.trial_timeout_s)
        self.front = FrontTracker(pool.cost_bounds)
        self.outcomes: dict[str, Outcome] = {}
        self._decisions = RungDecisions(settings.stopping, costs.error)
        self._counts: Counter[Outcome] = Counter()
        self._count_all()

    def suggest(self, trial_id: str) -> Any:
        """The next candidate's record as Tune config; None while all workers are busy; FINISHED at the end."""
        done = self.num_finished
        stopping = self.stop_reason or self.callback_error or self.exhausted
        if done >= self.settings.num_candidates or (stopping and not self.flights):
            return Searcher.FINISHED
        left = self.settings.num_candidates - done - len(self.flights)
        if stopping or left <= 0 or len(self.flights) >= self.workers:
            return None
        try:
            flight = self._ahead.take()
        except ExhaustedError:
            # A worker that dies gives its candidate back, so the end is only sure when none is in flight.
            self.exhausted = not self.flights and not len(self._ahead)
            return Searcher.FINISHED if self.exhausted else None
        except OSError as error:
            self.stop_reason = UserError(f"cannot write the study: {error.strerror}; free space, then resume the run")
            return None if self.flights else Searcher.FINISHED
        self.flights[trial_id] = flight
        wanted = num_ahead(self._ahead.proposal_s, self._times.median_s, self.workers)
        self._ahead.fill(min(wanted, left - 1))
        self._tell_workers()
        return {"record": flight.record.model_dump_json()}

    def _tell_workers(self) -> None:
        if self.control is None:
            return
        seconds, seconds_of = self._times.limit
        gigabytes = self.settings.worker_memory_gb
        num_bytes = None if gigabytes is None else int(gigabytes * 1e9)
        flying, deaths = len(self.flights), self.deaths
        self.control.write(Limits(seconds, seconds_of, num_bytes, self.per_node, flying, deaths))

    def _propose(self) -> Flight:
        with self._lock:
            if self.pool.exhausted:
                raise ExhaustedError
            busy = {flight.number for flight in list(self.flights.values())}
            try:
                trial = self.study.ask(distributions(self.space))
            except ExhaustedError:
                for left in self.study.get_trials(deepcopy=False, states=studies.UNFINISHED):
                    # Only the one that was just asked for has no parameters.
                    if left.number not in busy and not left.params:
                        studies.fail(self.study, left.number, "nothing left to propose")
                raise
            vector = vector_of(self.space, trial.params)
            self.pool.take(vector)
            record = self.planned(vector)
            for key, value in studies.start_attrs(self.space, record).items():
                trial.set_user_attr(key, value)
            return Flight(trial.number, vector, record)

    def planned(self, vector: Indices) -> CandidateRecord:
        """A record of a candidate before its evaluation (outcome `failed` until it is known better)."""
        candidate = self.space.decode(vector)
        row = vector[None]
        latency_ms, num_params = self.costs.matrix(row)[0]
        macs = None if self.costs.num_macs is None else int(np.asarray(self.costs.num_macs(row))[0])
        prior = np.inf if self.prior is None else float(np.asarray(self.prior(row))[0])
        return CandidateRecord(
            candidate=candidate.id,
            options=candidate.options,
            vector=tuple(int(i) for i in vector),
            outcome="failed",
            latency_ms=float(latency_ms),
            num_params=int(num_params),
            num_macs=macs,
            prior=prior if np.isfinite(prior) else None,
            trial=uuid.uuid4().hex[:16],
            seed=self.settings.seed,
            recipe_hash=self.settings.recipe_hash,
        )

    def stops(self, trial_id: str, rung: Rung) -> bool:
        """Whether a candidate that has reached a rung ends there; if so, that is in the store before it is said."""
        flight = self.flights.get(trial_id)
        if flight is None:
            return True
        flight.rungs.append(rung)
        stopped = self._decisions.stopped(flight.record, flight.rungs, self.front.points)
        if stopped is None:
            return False
        try:
            self.store.append(stopped)
        except UserError as problem:
            self.stop_reason = self.stop_reason or problem
            return False
        flight.stopped = stopped
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Book a result; whatever it was, neither a trial nor a candidate stays open behind it."""
        flight = self.flights.pop(trial_id, None)
        if flight is None:
            return
        try:
            with self._lock:
                self._book(flight, result or {})
        except UserError as problem:
            self.stop_reason = self.stop_reason or problem
        except OSError as problem:
            self.stop_reason = UserError(f"cannot write the study: {problem.strerror}; free space, then resume the run")
        self._tell_workers()
        self.report()

    def _book(self, flight: Flight, result: dict[str, Any]) -> None:
        if "fatal" in result:
            self.stop_reason = self.stop_reason or UserError(result["fatal"])
            studies.fail(self.study, flight.number, studies.INTERRUPTED)
            return
        record: CandidateRecord | None
        if "record" in result:
            record = CandidateRecord.model_validate_json(result["record"])
            self.store.append(record)
        else:  # stopped, or the process died, perhaps between storing and reporting
            record = flight.stopped or self.store.find_trial(flight.record.trial)
        if record is None:
            self.deaths += 1
            reason = (self.control and self.control.reason(flight.record.trial)) or DIED
            before = self._died.get(flight.record.candidate)
            if before is None:
                # The machine may be to blame (memory, a kill): once more, before the others.
                self._died[flight.record.candidate] = reason
                self.pool.release(flight.vector)
                self.sampler.queue.appendleft(flight.vector)
                studies.fail(self.study, flight.number, f"{reason}; tried once more")
                self._count_failure(f"{flight.record.candidate}: {reason}")
                return
            record = flight.record.model_copy(update={"reason": _both(before, reason)})
            self.store.append(record)
        elif record.outcome == "done":
            self._times.add(record.seconds)
        studies.finish(self.study, flight.number, record, self.costs)
        self.count(record)
        if record.outcome == "failed":
            self._count_failure(f"{record.candidate}: {record.reason}")

    def count(self, record: CandidateRecord) -> None:
        """Count a record that is booked (the store may hold others already, on their way here)."""
        before = self.outcomes.get(record.candidate)
        if before is not None:
            self._counts[before] -= 1
        self._counts[record.outcome] += 1
        self.outcomes[record.candidate] = record.outcome
        self._decisions.book(record)
        if record.outcome == "done":
            self.front.add(studies.values_of(record, self.costs))

    @property
    def num_finished(self) -> int:
        """Candidates that count against `num_candidates`: those evaluated to the end, and those stopped."""
        counts = self.counts()
        return counts["done"] + counts["stopped"]

    def counts(self) -> Counter[Outcome]:
        """Number of candidates per outcome."""
        return +self._counts

    def _count_all(self) -> None:
        """Count the candidates that the store has: by column, since it may have a hundred thousand."""
        table = self.store.table(self.store.latest_rows(), ("candidate", "outcome"))
        self.outcomes = dict(zip(table["candidate"].to_pylist(), table["outcome"].to_pylist(), strict=True))
        self._counts = Counter(self.outcomes.values())
        self.front.extend(self.store.objectives(self.costs.error)[1])
        if self.settings.early_stopping != "none":
            for record in self.store.latest():
                self._decisions.book(record)

    def _count_failure(self, reason: str) -> None:
        self.failed_now += 1
        if self.failed_now >= max(1, self.settings.max_failures):
            self.stop_reason = self.stop_reason or UserError(
                f"{self.failed_now} evaluations failed, the limit search.max_failures is {self.settings.max_failures}; "
                f"the last: {reason}; what is finished is kept, mend the cause or raise the limit, then resume the run"
            )

    def report(self) -> None:
        """Call on_progress with the counts so far; its error stops the sweep and is raised by run_sweep."""
        if self.on_progress is None or self.callback_error is not None:
            return
        counts = self.counts()
        try:
            self.on_progress(
                done=counts["done"],
                failed=counts["failed"],
                infeasible=counts["infeasible"],
                stopped=counts["stopped"],
                front_size=self.front.size,
                hypervolume=self.front.hypervolume,
                total=self.settings.num_candidates,
            )
        except BaseException as error:
            self.callback_error = error

    def interrupt(self) -> None:
        """Fail what is in flight or proposed ahead as interrupted: the driver stops now."""
        ahead = self._ahead.close()
        with contextlib.suppress(OSError):  # a full disk: the next start does it
            for flight in (*self.flights.values(), *ahead):
                studies.fail(self.study, flight.number, studies.INTERRUPTED)
        self.flights.clear()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its searcher into a file that nobody reads: store and study are the state.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: store and study are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: store and study are the state."""


def _both(first: str, second: str) -> str:
    if first != second:
        return f"{second}; before: {first}"
    return f"{first} twice" if first == DIED else f"{first}, twice"
