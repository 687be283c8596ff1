"""The process that evaluates candidates: one evaluator for its whole life, one Ray Tune trial a candidate."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from nas.search.control import Control, Watch
from nas.search.evaluation import Evaluate, Evaluation, one_line
from nas.search.presence import Presence
from nas.search.record import Rung
from nas.search.store import CandidateRecord, CandidateStore
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

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
    report_rungs: bool = False
    """Whether somebody decides at rungs; else they are only stored."""


class Evaluator(tune.Trainable):
    """Evaluates one candidate per trial; the actor, and with it the evaluator, is reused for the next one.

    A trial's config is `record` (JSON of a CandidateRecord without results). Its results are any number of `rung` (JSON
    of a Rung), then `record` (JSON, as stored) or `fatal` (one line: the sweep cannot go on). A watchdog ends this
    process when an evaluation takes too long or too much memory; making the evaluator (loading a teacher may take hours
    on a slow machine) has no time limit.
    """

    def setup(self, config: dict[str, Any], job: Job | None = None) -> None:
        """Keep start-up short: the evaluator itself is made by the first trial."""
        assert job is not None
        self._job, self._config = job, config
        self._store = CandidateStore(job.store)
        self._evaluate: Evaluate | None = None
        self._evaluation: Evaluation | None = None
        self._control, self._watch = Control(job.control), Watch(job.control)
        self._presence = Presence(job.store)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial's candidate; the last one, if it was stopped, is let go of."""
        if self._evaluation is not None:
            self._evaluation.close()
            self._evaluation = None
        self._config = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the candidate up to its next rung, or to the end; its record is stored before it is reported."""
        self._control.show_alive()
        try:
            if self._evaluate is None:
                self._presence.starting()
                self._evaluate = self._make_evaluator()
        except Exception as error:
            return {"done": True, "fatal": f"the evaluator cannot be made: {one_line(error)}"}
        if self._evaluation is None:
            self._evaluation = self._begin(CandidateRecord.model_validate_json(self._config["record"]))
        found: Rung | CandidateRecord | None = None
        try:
            planned = self._evaluation.planned
            self._presence.evaluating(planned)
            while not isinstance(found, CandidateRecord):
                with self._watch.over(planned.trial, self._evaluation.seconds):
                    found = self._evaluation.advance()
                    if isinstance(found, CandidateRecord):
                        self._store.append(found)  # watched, too: a disk can hang
                if isinstance(found, Rung) and self._job.report_rungs:
                    self._control.wait_for_others()
                    return {"rung": found.model_dump_json()}
            record, self._evaluation = found, None
        except OSError as error:
            return {"done": True, "fatal": f"an evaluation had no room to write: {one_line(error)}; free space"}
        except UserError as error:
            return {"done": True, "fatal": str(error)}
        self._control.wait_for_others()
        return {"done": True, "record": record.model_dump_json()}

    def _begin(self, planned: CandidateRecord) -> Evaluation:
        evaluate, candidate = self._evaluate, self._job.space.decode(np.array(planned.vector))
        assert evaluate is not None
        return Evaluation(
            planned, lambda: evaluate(candidate), self._job.error, lambda: self._log_failure(planned.candidate)
        )

    def _make_evaluator(self) -> Evaluate:
        os.environ["OMP_NUM_THREADS"] = str(self._job.threads)
        evaluate = self._job.factory()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self._job.threads)
        return evaluate

    def _log_failure(self, candidate: str) -> None:
        try:
            with open(self._job.store / FAILURES_FILE, "a", encoding="utf-8") as file:
                file.write(f"--- {candidate}\n{traceback.format_exc()}\n")
        except OSError:
            pass  # the record says the reason too; a full disk is reported when that is stored
