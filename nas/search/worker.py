"""The process that evaluates candidates: one evaluator for its whole life, one Ray Tune trial a candidate."""

from __future__ import annotations

import errno
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
from typing import Any

import numpy as np
from ray import tune

from nas.search.control import Control, Watch
from nas.search.presence import Presence
from nas.search.store import CandidateRecord, CandidateStore
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

Evaluate = Callable[[Candidate], Mapping[str, float]]
EvaluateFactory = Callable[[], Evaluate]

FAILURES_FILE = "failures.log"


@dataclass(frozen=True)
class Job:
    """What every worker of a sweep is given once."""

    space: SearchSpace
    factory: EvaluateFactory
    store: Path
    error: str
    control: Path
    """Folder through which workers and driver tell each other things, see :mod:`nas.search.control`."""
    threads: int
    """Of each worker."""


class Evaluator(tune.Trainable):
    """Evaluates one candidate per trial; the actor, and with it the evaluator, is reused for the next one.

    A trial's config is `record` (JSON of a CandidateRecord without results). Its result is `record` (JSON, as stored)
    or `fatal` (one line: the sweep cannot go on). A watchdog ends this process when an evaluation takes too long or
    too much memory; making the evaluator (loading a teacher may take hours on a slow machine) has no time limit.
    """

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Keep start-up short: the evaluator itself is made by the first trial."""
        assert job is not None
        self._job, self._config = job, config
        self._store = CandidateStore(job.store)
        self._evaluate: Evaluate | None = None
        self._control, self._watch = Control(job.control), Watch(job.control)
        self._presence = Presence(job.store)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial's candidate."""
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the candidate and store the record before reporting it."""
        self._control.show_alive()
        try:
            if self._evaluate is None:
                self._presence.starting()
                self._evaluate = self._make_evaluator()
        except Exception as error:
            return {"done": True, "fatal": f"the evaluator cannot be made: {_one_line(error)}"}
        planned = CandidateRecord.model_validate_json(self._config["record"])
        try:
            self._presence.evaluating(planned)
            with self._watch.over(planned.trial):  # storing, too: a disk can hang
                record = self._run(planned)
                self._store.append(record)
        except OSError as error:
            return {"done": True, "fatal": f"an evaluation had no room to write: {_one_line(error)}; free space"}
        except UserError as error:
            return {"done": True, "fatal": str(error)}
        self._control.wait_for_others()
        return {"done": True, "record": record.model_dump_json()}

    def _make_evaluator(self) -> Evaluate:
        os.environ["OMP_NUM_THREADS"] = str(self._job.threads)
        evaluate = self._job.factory()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._job.threads)
        return evaluate

    def _run(self, planned: CandidateRecord) -> CandidateRecord:
        assert self._evaluate is not None
        start = time.perf_counter()
        metrics: dict[str, float] = {}
        try:
            found = dict(self._evaluate(self._job.space.decode(np.array(planned.vector))))
            metrics, reason = check_metrics(found, self._job.error)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise  # the disk is to blame, not the candidate
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


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")
