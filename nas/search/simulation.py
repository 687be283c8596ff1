"""A sweep in simulated time: real proposals, evaluations looked up in a table, any number of workers.

The clock is simulated, the sampler is not: it is asked when a worker is free and told when an evaluation ends, in
the order in which a real sweep would do both, so that a thousand workers are studied on one core. One driver
proposes, one proposal after the other, which is what limits a sweep of many workers and short evaluations.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.search.decisions import ExhaustedError
from nas.search.settings import Floats
from nas.search.table import CandidateTable, ReferenceName
from search_spaces.errors import UserError


class Door(Protocol):
    """The way to a sampler: rows of a table are asked for and their evaluations told."""

    def ask(self) -> int:
        """Row to evaluate next, none twice.

        Raises:
            ExhaustedError: every row has been proposed.
        """

    def tell(self, row: int, failed: bool) -> None:
        """The evaluation of an asked row ended."""


@dataclass(frozen=True)
class Durations:
    """How long evaluations take and which fail, drawn once per candidate: the same in every schedule of a seed."""

    seconds: Floats
    """(N,) per row of the table."""
    fails_after: Floats
    """(N,) share of its time after which a row's evaluation fails; infinite where it does not."""

    @classmethod
    def draw(
        cls,
        table: CandidateTable,
        seconds: float | None = None,
        column: str | None = None,
        scale: float = 1.0,
        spread: float = 0.0,
        failures: float = 0.0,
        seed: int = 0,
    ) -> Durations:
        """Durations from one median or from a column, with a log-normal spread.

        Args:
            table: whose rows are evaluated.
            seconds: median duration of every row; or
            column: column of the table, objectives included, and
            scale: seconds a unit of it.
            spread: standard deviation of the logarithm of the duration (0.1: about 10 %).
            failures: share of rows that fail, each at a random point of its time.
            seed: of both draws.

        Raises:
            UserError: neither or both of seconds and column, an unknown column, or durations that are not positive.
        """
        if (seconds is None) == (column is None):
            raise UserError("durations: give either seconds or a column of the table")
        if column is None:
            base = np.full(len(table), float(seconds or 0))
        elif column in table.objectives:
            base = table.values[:, table.objectives.index(column)] * scale
        elif column in table.columns:
            base = table.columns[column] * scale
        else:
            raise UserError(
                f"durations: no column {column!r} was read; legal are {', '.join((*table.objectives, *table.columns))}"
            )
        if not (base > 0).all() or not np.isfinite(base).all():
            raise UserError(
                f"durations: {column or 'seconds'} gives {base.min():g} s for a candidate; legal are positive times"
            )
        rng = np.random.default_rng([seed, 2])
        drawn = base * np.exp(spread * rng.standard_normal(len(table)))
        fails = np.where(rng.random(len(table)) < failures, rng.random(len(table)), np.inf)
        return cls(drawn, fails)


@dataclass(frozen=True)
class Schedule:
    """What a simulated sweep has."""

    num_workers: int
    num_evaluations: int
    """Evaluations started at most."""
    proposal_s: float = 0.0
    """Simulated time of the driver per proposal."""
    start_s: float = 0.0
    """From the start to the workers' first evaluation."""
    until: float | None = None
    """Share of the true hypervolume at which no more is started."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What happened, evaluations in the order of their ends; times in simulated seconds from the start."""

    num_workers: int
    rows: NDArray[np.int64]
    workers: NDArray[np.int64]
    started_s: Floats
    ended_s: Floats
    failed: NDArray[np.bool_]
    share: Floats
    """Of the true hypervolume, after each end."""
    proposal_cpu_s: Floats
    """Processor time here of each proposal, in the order of the proposals."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def seconds(self) -> float:
        """Until the last end."""
        return float(self.ended_s[-1]) if len(self) else 0.0

    @property
    def busy_s(self) -> float:
        """Time of all workers spent in evaluations."""
        return float((self.ended_s - self.started_s).sum())

    @property
    def utilisation(self) -> float:
        """Share of the workers' time, from the start to the last end, spent in evaluations."""
        return self.busy_s / (self.num_workers * self.seconds) if self.seconds else 0.0

    def evaluations_to(self, share: float) -> int | None:
        """Ended evaluations until `share` of the true hypervolume; None if it was not reached."""
        reached = np.flatnonzero(self.share >= share)
        return int(reached[0]) + 1 if len(reached) else None

    def seconds_to(self, share: float) -> float | None:
        """Time until `share` of the true hypervolume; None if it was not reached."""
        number = self.evaluations_to(share)
        return None if number is None else float(self.ended_s[number - 1])

    def share_at(self, seconds: Floats) -> Floats:
        """Share of the true hypervolume at given times."""
        return np.asarray(np.concatenate([[0.0], self.share])[self.ended_by(seconds)])

    def ended_by(self, seconds: Floats) -> NDArray[np.int64]:
        """Ended evaluations at given times."""
        return np.searchsorted(self.ended_s, seconds, side="right")

    def busy_at(self, seconds: Floats) -> NDArray[np.int64]:
        """Workers that evaluate something just before given times."""
        started = np.searchsorted(np.sort(self.started_s), seconds, side="left")
        return np.asarray(started - np.searchsorted(self.ended_s, seconds, side="left"))

    def share_after(self, evaluations: int) -> float | None:
        """Share of the true hypervolume after so many ended evaluations; None if there were fewer."""
        return float(self.share[evaluations - 1]) if 0 < evaluations <= len(self) else None


def simulate(
    door: Door,
    table: CandidateTable,
    durations: Durations,
    schedule: Schedule,
    reference: ReferenceName = "worst",
    on_end: Callable[[int, float], None] | None = None,
) -> Trace:
    """Run a schedule to its end.

    A proposal begins when a worker is free and the driver has nothing else to do, and sees every evaluation that has
    ended by then, those that end at that very moment included. With equal durations and free proposals, `q` workers
    therefore are batches of `q`: all asked, all told, all asked again.

    Args:
        door: to the sampler.
        table: what evaluations find.
        durations: of its rows.
        schedule: workers and limits.
        reference: of the hypervolume, see :meth:`CandidateTable.reference`.
        on_end: called after each end with the number of ended evaluations and the hypervolume's share.
    """
    assert schedule.num_workers >= 1 and schedule.num_evaluations >= 1
    tracker = table.tracker(reference)
    # (free since, worker): the longest free one goes first, so that the order is definite.
    free = [(schedule.start_s, worker) for worker in range(schedule.num_workers)]
    running: list[tuple[float, int, int, int, float]] = []  # end, number, row, worker, start
    ended: list[tuple[int, int, float, float, bool, float]] = []
    cpu_s: list[float] = []
    driver_free_s = 0.0
    going = True
    while True:
        going = going and len(cpu_s) < schedule.num_evaluations
        begin = max(driver_free_s, free[0][0]) if going and free else np.inf
        if running and running[0][0] <= begin:
            end, _, row, worker, start = heapq.heappop(running)
            failed = bool(np.isfinite(durations.fails_after[row]))
            door.tell(row, failed)
            share = tracker.share if failed else tracker.add(row)
            ended.append((row, worker, start, end, failed, share))
            heapq.heappush(free, (end, worker))
            going = going and (schedule.until is None or share < schedule.until)
            if on_end is not None:
                on_end(len(ended), share)
            continue
        if begin == np.inf:
            break
        clock = time.process_time()
        try:
            row = door.ask()
        except ExhaustedError:
            going = False
            continue
        cpu_s.append(time.process_time() - clock)
        _, worker = heapq.heappop(free)
        driver_free_s = begin + schedule.proposal_s
        takes = durations.seconds[row] * min(1.0, durations.fails_after[row])
        heapq.heappush(running, (driver_free_s + takes, len(cpu_s), row, worker, driver_free_s))
    columns = list(zip(*ended, strict=True)) if ended else [()] * 6
    return Trace(
        schedule.num_workers,
        np.array(columns[0], dtype=np.int64),
        np.array(columns[1], dtype=np.int64),
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.float64),
        np.array(columns[4], dtype=bool),
        np.array(columns[5], dtype=np.float64),
        np.array(cpu_s),
    )
