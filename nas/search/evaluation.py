"""One evaluation in a worker: a candidate's evaluator called once, or rung by rung."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nas.search.record import CandidateRecord, Rung
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError


@dataclass(frozen=True)
class PartialResult:
    """What an evaluator has measured of a candidate on the way to its metrics."""

    steps: int
    """Steps of training, or samples compared, so far; they grow from one to the next."""
    metrics: Mapping[str, float]
    """As the evaluator's metrics, or some of them; the error among them."""
    standard_error: float | None = None
    """Of the error."""


Metrics = Mapping[str, float]
Evaluate = Callable[[Candidate], Metrics | Iterator[PartialResult | Metrics]]
"""Metrics at once; or an iterator of any number of partial results that ends with the metrics, and that computes each
only when it is asked for: what is not asked for any more was stopped."""


class Evaluation:
    """One candidate under evaluation.

    Args:
        planned: its record without results.
        start: begins the evaluation.
        error: name of the metric that must be there.
        on_failure: called while an error of the evaluator is handled.
    """

    def __init__(
        self,
        planned: CandidateRecord,
        start: Callable[[], Any],
        error: str,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.planned, self._start, self._error, self._on_failure = planned, start, error, on_failure
        self.seconds = 0.0
        """That it took so far, waits for decisions not counted."""
        self._rungs: list[Rung] = []
        self._iterator: Iterator[Any] | None = None

    def advance(self) -> Rung | CandidateRecord:
        """Evaluate up to the next rung, or to the end: the record as it is to be stored.

        Raises:
            OSError: there is no room on the disk; the candidate is not to blame.
        """
        start = time.perf_counter()
        try:
            found = self._next()
            if isinstance(found, PartialResult):
                steps, metrics, reason = found.steps, *check_metrics(found.metrics, self._error)
                if found.standard_error is not None and math.isfinite(found.standard_error):
                    metrics[f"{self._error}_se"] = float(found.standard_error)
                if reason is None and self._rungs and steps <= self._rungs[-1].steps:
                    reason = f"rung of {steps} steps after one of {self._rungs[-1].steps}; steps must grow"
                if reason is None:
                    self.seconds += time.perf_counter() - start
                    rung = Rung(steps=steps, metrics=metrics, seconds=round(self.seconds, 4))
                    self._rungs.append(rung)
                    return rung
                metrics = {}
            else:
                metrics, reason = check_metrics(found, self._error)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            metrics, reason = {}, one_line(error)
            self._on_failure()
        self.seconds += time.perf_counter() - start
        self.close()
        return self.planned.model_copy(
            update={
                "outcome": "failed" if reason else "done",
                "reason": reason,
                "metrics": metrics,
                "rungs": tuple(self._rungs),
                "worker": f"{socket.gethostname()}:{os.getpid()}",
                "seconds": round(self.seconds, 4),
                "finished_at": now(),
            }
        )

    def _next(self) -> Any:
        if self._iterator is None:
            found = self._start()
            if isinstance(found, Mapping):
                return found
            self._iterator = iter(found)
        try:
            return next(self._iterator)
        except StopIteration:
            raise ValueError("the evaluator ended with a rung; after its rungs it must give all metrics") from None

    def close(self) -> None:
        """End it where it is, and let go of what it holds."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):  # nobody waits for its result
                close()
        self._iterator = None


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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


def one_line(error: BaseException) -> str:
    """What went wrong, for a record."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".rstrip(": ")
