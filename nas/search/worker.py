"""The process that evaluates candidates: one evaluator for its whole life, one Ray Tune trial a candidate."""

from __future__ import annotations

import fcntl
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
from ray import tune

from nas.search.store import CandidateRecord, CandidateStore
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

Evaluate = Callable[[Candidate], Mapping[str, float]]
EvaluateFactory = Callable[[], Evaluate]

FAILURES_FILE = "failures.log"
# Longest wait of a worker for the others to have started, see Evaluator._wait_for_others.
START_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """What every worker of a sweep is given once."""

    space: SearchSpace
    factory: EvaluateFactory
    store: Path
    error: str
    ready: Path
    """Folder in which each worker shows that it is alive."""


class Evaluator(tune.Trainable):
    """Evaluates one candidate per trial; the actor, and with it the evaluator, is reused for the next one.

    A trial's config is `record` (JSON of a CandidateRecord without results), `workers` (how many workers the sweep
    wants) and `deaths` (how many have died so far). Its result is `record` (JSON, as stored) or `fatal` (one line:
    the sweep cannot go on).
    """

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Keep start-up short: the evaluator itself is made by the first trial."""
        assert job is not None
        self._job, self._config = job, config
        self._store = CandidateStore(job.store)
        self._evaluate: Evaluate | None = None
        self._alive: IO[str] | None = None
        self._waited_after = -1

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial's candidate."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the candidate and store the record before reporting it."""
        self._show_alive()
        try:
            if self._evaluate is None:
                self._evaluate = self._make_evaluator()
        except Exception as error:
            return {"done": True, "fatal": f"the evaluator cannot be made: {_one_line(error)}"}
        record = self._run(CandidateRecord.model_validate_json(self._config["record"]))
        try:
            self._store.append(record)
        except UserError as error:
            return {"done": True, "fatal": str(error)}
        self._wait_for_others()
        return {"done": True, "record": record.model_dump_json()}

    def _make_evaluator(self) -> Evaluate:
        os.environ["OMP_NUM_THREADS"] = "1"
        evaluate = self._job.factory()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        return evaluate

    def _run(self, planned: CandidateRecord) -> CandidateRecord:
        assert self._evaluate is not None
        start = time.perf_counter()
        metrics: dict[str, float] = {}
        try:
            found = dict(self._evaluate(self._job.space.decode(np.array(planned.vector))))
            metrics, reason = check_metrics(found, self._job.error)
        except Exception as error:
            reason = _one_line(error)
            self._log_failure(planned.candidate)
        return planned.model_copy(
            update={
                "outcome": "failed" if reason else "done",
                "reason": reason,
                "metrics": metrics,
                "worker": f"{socket.gethostname()}:{os.getpid()}",
                "seconds": round(time.perf_counter() - start, 4),
                "finished_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
        )

    def _log_failure(self, candidate: str) -> None:
        try:
            with open(self._job.store / FAILURES_FILE, "a", encoding="utf-8") as file:
                file.write(f"--- {candidate}\n{traceback.format_exc()}\n")
        except OSError:
            pass  # the record says the reason too; a full disk is reported when that is stored

    def _show_alive(self) -> None:
        # A locked file says "alive" for exactly as long as this process lives, on whichever node.
        if self._alive is None:
            self._job.ready.mkdir(parents=True, exist_ok=True)
            self._alive = open(self._job.ready / f"{socket.gethostname()}-{os.getpid()}", "w")  # noqa: SIM115
            fcntl.flock(self._alive, fcntl.LOCK_EX)

    def _wait_for_others(self) -> None:
        """Wait before reporting until as many workers as wanted are alive: at the start, and after one died.

        Ray Tune gives a finished trial's actor to any trial whose own actor is still starting, and cancels that start.
        With evaluations shorter than a start (1.4 s) the second worker would never come up.
        """
        if self._waited_after == self._config["deaths"]:
            return
        self._waited_after = self._config["deaths"]
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and _num_alive(self._job.ready) < int(self._config["workers"]):
            time.sleep(0.02)


def check_metrics(found: Mapping[str, Any], error: str) -> tuple[dict[str, float], str | None]:
    """Finite metrics as floats, and why they are not good enough (None if they are)."""
    good: dict[str, float] = {}
    bad: list[str] = []
    for name, value in found.items():
        number = float(value)
        if math.isfinite(number):
            good[name] = number
        else:
            bad.append(f"{name} is {number}")
    if error not in found:
        bad.append(f"{error} is missing; the evaluator gave {', '.join(found) or 'nothing'}")
    elif error in good and good[error] < 0:
        bad.append(f"{error} is negative: {good[error]}")
    return good, "; ".join(bad) or None


def _num_alive(folder: Path) -> int:
    alive = 0
    for path in folder.iterdir():
        try:
            with open(path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            alive += 1
        except OSError:
            continue
    return alive


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")
