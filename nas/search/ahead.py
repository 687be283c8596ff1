"""Proposals made while the workers evaluate, so that none waits for a sampler that thinks for long."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

# Below this expected number of workers that finish during one proposal, the freshest proposal is worth the wait.
LEAST_LOAD = 0.05


def num_ahead(proposal_s: float | None, evaluation_s: float | None, workers: int) -> int:
    """How many proposals to have ready: as many as workers will finish during one, 0 where that is next to none.

    A proposal made ahead does not know the results that come until it is used, so that it costs a little of what the
    sampler could know. With one worker every result is waited for: the same seed gives the same run.

    Args:
        proposal_s: seconds of a proposal; None: unknown.
        evaluation_s: seconds of an evaluation; None: unknown.
        workers: evaluating at the same time.
    """
    if workers == 1 or not proposal_s or not evaluation_s:
        return 0
    load = workers * proposal_s / evaluation_s
    return 0 if load < LEAST_LOAD else min(workers, math.ceil(load))


class Ahead(Generic[T]):
    """A short queue of proposals, filled by one thread.

    Args:
        propose: makes one proposal; called in this class's thread or in the caller's, never in both at once.
    """

    def __init__(self, propose: Callable[[], T]) -> None:
        self._propose = propose
        self._ready: deque[Future[T]] = deque()
        self._seconds: deque[float] = deque(maxlen=5)
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """Number of proposals that are made or being made."""
        return len(self._ready)

    @property
    def proposal_s(self) -> float | None:
        """Seconds of a proposal: the mean of the last five."""
        return statistics.fmean(self._seconds) if self._seconds else None

    def take(self) -> T:
        """The next proposal; whatever making it raised is raised here."""
        if self._ready:
            return self._ready.popleft().result()
        return self._timed()

    def fill(self, num: int) -> None:
        """Have `num` proposals made or under way."""
        while len(self._ready) < num:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="proposals")
            self._ready.append(self._thread.submit(self._timed))

    def close(self) -> list[T]:
        """Make no more; the proposals that were made and not taken."""
        for future in self._ready:
            future.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        left = [f.result() for f in self._ready if not f.cancelled() and f.exception() is None]
        self._ready.clear()
        return left

    def _timed(self) -> T:
        start = time.perf_counter()
        found = self._propose()
        self._seconds.append(time.perf_counter() - start)
        return found
