"""What each worker of a sweep evaluates now, in a file a worker: `workers/<host>-<pid>.json` beside the records.

Written for whoever looks on. A worker that is killed leaves its file; readers tell that by the process, by a record of
the same evaluation, or by the driver that is gone, and the next sweep removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nas.search.record import CandidateRecord

WORKERS_FOLDER = "workers"


class WorkerState(BaseModel):
    """What one worker does."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    doing: Literal["starting", "evaluating"]
    """Making the evaluator (loading the teacher), or evaluating a candidate, whose record may be stored by now."""
    since: str
    """UTC, ISO 8601."""
    trial: str | None = None
    """Name of the evaluation, as in its record."""
    candidate: str | None = None
    options: dict[str, str] = {}
    latency_ms: float | None = None
    num_params: int | None = None
    prior: float | None = None

    @property
    def worker(self) -> str:
        """As in records: `host:process id`."""
        return f"{self.host}:{self.pid}"


class Presence:
    """A worker's file. One that cannot be written (a full disk) is left as it is: an evaluation matters more."""

    def __init__(self, store: Path) -> None:
        self._folder = store / WORKERS_FOLDER
        self._host, self._pid = socket.gethostname(), os.getpid()
        self._path = self._folder / f"{self._host}-{self._pid}.json"
        self._part = self._path.with_suffix(".part")

    def starting(self) -> None:
        """The evaluator is being made."""
        self._write(WorkerState(host=self._host, pid=self._pid, doing="starting", since=_now()))

    def evaluating(self, planned: CandidateRecord) -> None:
        """This candidate is evaluated, until its record is stored or another one is named."""
        state = WorkerState(
            host=self._host,
            pid=self._pid,
            doing="evaluating",
            since=_now(),
            trial=planned.trial,
            candidate=planned.candidate,
            options=planned.options,
            latency_ms=planned.latency_ms,
            num_params=planned.num_params,
            prior=planned.prior,
        )
        self._write(state)

    def _write(self, state: WorkerState) -> None:
        text = state.model_dump_json()
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            with open(self._part, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(self._part, self._path)
            return
        with suppress(OSError):
            os.unlink(self._part)


def read_workers(store: Path) -> list[WorkerState]:
    """What the workers' files say, by worker; damaged ones are left out."""
    found = []
    for path in sorted((store / WORKERS_FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, ValidationError):
            found.append(WorkerState.model_validate(json.loads(path.read_text(encoding="utf-8"))))
    return found


def clear_workers(store: Path) -> None:
    """Remove the files, when no worker lives."""
    shutil.rmtree(store / WORKERS_FOLDER, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
