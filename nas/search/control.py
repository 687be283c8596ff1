"""What the driver of a sweep and its workers tell each other beside Ray: limits, who is alive, why one was ended."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from nas.search import watchdog

# Longest wait of a worker for the others to have started, see Control.wait_for_others.
START_SECONDS = 30.0
# Without a given limit, an evaluation may take this many times the median of those before it ...
MEDIANS = 20.0
# ... but never less than this: a busy machine stretches short evaluations most.
LEAST_SECONDS = 60.0
# ... and this until so many have finished.
FIRST_SECONDS = 86_400.0
NUM_FOR_MEDIAN = 3


@dataclass(frozen=True)
class Limits:
    """What the driver tells its workers."""

    seconds: float
    """Longest evaluation."""
    seconds_of: str
    """What set that limit, for the reason."""
    worker_bytes: int | None
    """Most memory of a worker; None: its share of the node's."""
    per_node: int
    """Workers that share a node."""
    in_flight: int
    """Candidates that are evaluated now or wait for a worker that is starting."""
    deaths: int
    """Workers that have died."""


class EvaluationTimes:
    """Seconds of a sweep's finished evaluations, and what follows from them."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._recent: deque[float] = deque(maxlen=101)

    def add(self, seconds: float) -> None:
        """One more finished evaluation."""
        self._recent.append(seconds)

    @property
    def median_s(self) -> float | None:
        """Of the last 101; None while too few have finished."""
        return statistics.median(self._recent) if len(self._recent) >= NUM_FOR_MEDIAN else None

    @property
    def limit(self) -> tuple[float, str]:
        """Longest evaluation from now on, and what sets it."""
        if self._timeout_s is not None:
            return self._timeout_s, "search.trial_timeout_s"
        if self.median_s is None:
            return FIRST_SECONDS, "the limit before any has finished"
        limit = max(LEAST_SECONDS, MEDIANS * self.median_s)
        return limit, f"others took {self.median_s:.3g} s; search.trial_timeout_s sets another limit"


class Control:
    """A folder that the driver and all workers of a sweep see.

    `limits.json` is written by the driver and read by workers and their watchdogs; `<trial>.reason` is why a watchdog
    ended a worker; `alive-<host>-<pid>` is locked by a worker for as long as it lives.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written: Limits | None = None
        self._alive: IO[str] | None = None
        self._all_were_there = (0, -1)

    def write(self, limits: Limits) -> None:
        """Tell the workers, unless they know; a full disk leaves them with what they know."""
        if limits == self._written:
            return
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / "limits.part"
            part.write_text(json.dumps(asdict(limits)))
            os.replace(part, self.folder / watchdog.LIMITS_FILE)
            self._written = limits

    def read(self) -> Limits | None:
        """What the driver wrote last."""
        try:
            return Limits(**json.loads((self.folder / watchdog.LIMITS_FILE).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def reason(self, trial: str) -> str | None:
        """Why the worker of this evaluation was ended; None where nobody meant to."""
        try:
            return (self.folder / f"{trial}{watchdog.REASON_SUFFIX}").read_text() or None
        except OSError:
            return None

    def show_alive(self) -> None:
        """Count this process among the workers until it ends."""
        # A locked file says "alive" for exactly as long as this process lives, on whichever node.
        if self._alive is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._alive = open(self.folder / f"alive-{socket.gethostname()}-{os.getpid()}", "w")  # noqa: SIM115
            fcntl.flock(self._alive, fcntl.LOCK_EX)

    def wait_for_others(self) -> None:
        """Wait until there is a worker for every candidate in flight: at the start, and after one died.

        Ray Tune gives a finished trial's actor to any trial whose own actor is still starting, and cancels that start.
        With evaluations shorter than a start (1.4 s) the second worker would never come up. How many are in flight is
        read again and again: near its end a sweep needs fewer workers than before.
        """
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            limits = self.read()
            if limits is None:
                return
            most, deaths = self._all_were_there
            if limits.in_flight <= most and limits.deaths == deaths:
                return
            if self.num_alive() >= limits.in_flight:
                self._all_were_there = (limits.in_flight, limits.deaths)
                return
            time.sleep(0.02)

    def num_alive(self) -> int:
        """Number of workers that live."""
        alive = 0
        for path in self.folder.glob("alive-*"):
            try:
                with open(path) as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                alive += 1
            except OSError:
                continue
        return alive


class Watch:
    """A worker's handle on its watchdog, which starts with the first evaluation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def over(self, trial: str, seconds: float = 0.0) -> Iterator[None]:
        """Watch this process while the block runs, `seconds` after its evaluation began."""
        self._tell(f"{trial} {seconds:.3f}")
        try:
            yield
        finally:
            self._tell("")

    def _tell(self, trial: str) -> None:
        for _ in range(2):
            if self._process is None:
                command = [sys.executable, "-I", watchdog.__file__, str(os.getpid()), str(self._folder)]
                out = subprocess.DEVNULL
                try:
                    self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out)
                except OSError:  # no more processes: an evaluation that nobody watches is better than none
                    return
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(f"{trial}\n".encode())
                self._process.stdin.flush()
                return
            except OSError:  # somebody ended it: another one
                self._process.wait()
                self._process = None
