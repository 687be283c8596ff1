"""What the driver of a run is doing, in a file for whoever looks on: `progress.json` in the run's folder."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nas.progress import Phase
from search_spaces.errors import UserError

# Least time between two writings of one phase: looking on must cost the run nothing.
_SECONDS = 0.5

Ended = Literal["finished", "stopped"]


class PhaseProgress(BaseModel):
    """A phase under way, or the last one."""

    model_config = ConfigDict(frozen=True)

    name: str
    done: int = 0
    skipped: int = 0
    """Of `done`, what an earlier process did."""
    total: int | None = None
    counts: Mapping[str, float | int | str] = {}
    """Named counts; "" names a remark."""
    started_at: str
    """UTC, ISO 8601; `updated_at` likewise."""
    updated_at: str


class RunProgress(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True)

    format_version: Literal[1] = 1
    pid: int
    host: str
    started_at: str
    """Of this driver, UTC, ISO 8601."""
    phase: PhaseProgress | None = None
    ended: Ended | None = None
    """How the driver ended; None while it lives, and of one that was killed."""
    reason: str | None = None
    """Why it stopped, in one line."""


class ProgressFile:
    """Writes the file: whole or not at all, a few times a second at most. One that cannot be written is left out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = RunProgress(pid=os.getpid(), host=socket.gethostname(), started_at=utc_now())
        self._started, self._written = utc_now(), 0.0
        self._last: Phase | None = None

    def follow(self, phase: Phase) -> None:
        """A phase has begun or counted something."""
        begun = phase is not self._last
        if begun:
            self._last, self._started = phase, utc_now()
        elif time.monotonic() - self._written < _SECONDS and phase.done != phase.total:
            return
        self._write(self._phase(phase))

    @contextmanager
    def over(self) -> Iterator[None]:
        """The whole work of the driver: says at its end how it ended."""
        self._write(None)
        try:
            yield
        except KeyboardInterrupt:
            self._end("stopped", "interrupted (Ctrl-C)")
            raise
        except UserError as error:
            self._end("stopped", str(error))
            raise
        except BaseException as error:
            self._end("stopped", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            raise
        self._end("finished", None)

    def _end(self, ended: Ended, reason: str | None) -> None:
        phase = None if self._last is None else self._phase(self._last)
        self._state = self._state.model_copy(update={"ended": ended, "reason": reason})
        self._write(phase)

    def _phase(self, phase: Phase) -> PhaseProgress:
        return PhaseProgress(
            name=phase.name,
            done=phase.done,
            skipped=phase.skipped,
            total=phase.total,
            counts=dict(phase.counts),
            started_at=self._started,
            updated_at=utc_now(),
        )

    def _write(self, phase: PhaseProgress | None) -> None:
        text = self._state.model_copy(update={"phase": phase}).model_dump_json(indent=1)
        # Without a wait for the disk: after a power cut nobody asks what was under way.
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with suppress(OSError):
            part.write_text(text, encoding="utf-8")
            os.replace(part, self.path)
            self._written = time.monotonic()
            return
        with suppress(OSError):  # a full disk leaves half of it
            part.unlink()


def read_progress(path: Path) -> RunProgress | None:
    """What the file says; None where there is none, or not a whole one."""
    try:
        return RunProgress.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError):
        return None


def utc_now() -> str:
    """UTC in ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seconds_since(text: str, now: float) -> float | None:
    """Seconds from a time in ISO 8601 to `now` (seconds of the epoch); None of what is no time."""
    try:
        return max(0.0, now - datetime.fromisoformat(text).timestamp())
    except ValueError:
        return None
