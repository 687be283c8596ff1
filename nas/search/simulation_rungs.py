"""Early stopping in simulated time: a table of learning curves is searched, and evaluations end where a stopper says.

As in :mod:`nas.search.simulation`, the sampler is real and sees what a real one would. What is spent is counted in
whatever unit the costs of the curves have: distillation steps, or seconds.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nas.search.decisions import ExhaustedError
from nas.search.learning_curves import Forecast, Point
from nas.search.settings import Floats
from nas.search.simulation import Door
from nas.search.stopping import Stopper, StoppingSettings
from nas.search.table import CandidateTable, ReferenceName


class StoppingDoor(Door, Protocol):
    """The way to a sampler that is also told of evaluations that were stopped."""

    def tell_stopped(self, row: int, forecast: Forecast) -> None:
        """The evaluation of an asked row was stopped; what its error was expected to become."""


@dataclass(frozen=True, eq=False)
class RungTable:
    """What is seen of every row of a table on the way to its error (objective 0)."""

    steps: tuple[int, ...]
    """Of the rungs, growing; the end is not among them."""
    errors: Floats
    """(N, rungs)."""
    spent: Floats
    """(rungs + 1,) cost of an evaluation up to each rung and to the end, where rungs are measured."""
    spent_without: float
    """Cost of an evaluation without rungs."""


@dataclass(frozen=True, eq=False)
class StoppingTrace:
    """What happened, evaluations in the order of their ends."""

    rows: NDArray[np.int64]
    stopped: NDArray[np.bool_]
    spent: Floats
    """Cost of each evaluation."""
    ended: Floats
    """Simulated time of each end, in the unit of costs."""
    share: Floats
    """Of the true hypervolume, after each end."""

    def share_at(self, spent: float) -> float:
        """Share of the true hypervolume when all evaluations that have ended have cost so much together."""
        done = int(np.searchsorted(np.cumsum(self.spent), spent, side="right"))
        return float(self.share[done - 1]) if done else 0.0

    def spent_to(self, share: float) -> float | None:
        """Cost of all evaluations until a share of the true hypervolume; None if it was not reached."""
        found = np.flatnonzero(self.share >= share)
        return float(self.spent[: found[0] + 1].sum()) if len(found) else None

    def lost(self, table: CandidateTable) -> int:
        """Rows of the true front that were stopped."""
        return int(np.isin(self.rows[self.stopped], table.front).sum())

    def met(self, table: CandidateTable) -> int:
        """Rows of the true front that were evaluated, to the end or not."""
        return int(np.isin(self.rows, table.front).sum())


def simulate_stopping(
    door: StoppingDoor,
    table: CandidateTable,
    curves: RungTable,
    settings: StoppingSettings,
    budget: float,
    num_workers: int = 1,
    reference: ReferenceName = "worst",
) -> StoppingTrace:
    """Evaluate until `budget` is spent (what has begun is finished) or nothing is left.

    Args:
        door: to the sampler.
        table: objective 0 is the error, the others are known.
        curves: of its rows.
        settings: of the stopper; with policy `none` no rung is measured.
        budget: in the unit of `curves.spent`, all workers together.
        num_workers: evaluating at the same time.
        reference: of the hypervolume, see :meth:`CandidateTable.reference`.
    """
    from nas.pareto import front

    assert not table.known[0] and all(table.known[1:]), "objective 0 is the error, all others are known"
    with_rungs = settings.policy != "none"
    stopper, tracker = Stopper(settings), table.tracker(reference)
    measured = np.empty((0, table.values.shape[1]))
    running: list[tuple[float, int, int, int, float]] = []  # time of the next rung or end, number, row, rung, start
    ended: list[tuple[int, bool, float, float, float]] = []
    clock = spent = 0.0
    number = 0
    going = True
    ends = [*curves.spent] if with_rungs else [curves.spent_without]
    while True:
        while going and len(running) < num_workers and spent + sum(clock - r[4] for r in running) < budget:
            try:
                row = door.ask()
            except ExhaustedError:
                going = False
                break
            number += 1
            heapq.heappush(running, (clock + ends[0], number, row, 0, clock))
        if not running:
            break
        clock, own, row, rung, start = heapq.heappop(running)
        name, costs = str(row), table.values[row, 1:].tolist()
        stopped = False
        points = [
            Point(curves.steps[i], float(curves.errors[row, i])) for i in range(rung + 1) if i < len(curves.steps)
        ]
        if rung + 1 < len(ends):
            verdict = stopper.decide(name, points, costs, measured)
            stopped = verdict.stop
            if not stopped:
                heapq.heappush(running, (start + ends[rung + 1], own, row, rung + 1, start))
                continue
            door.tell_stopped(row, verdict.forecast)
            share = tracker.share
        else:
            door.tell(row, False)
            share = tracker.add(row)
            stopper.finished(name, points if with_rungs else [], costs, float(table.values[row, 0]))
            measured = np.vstack([measured, table.values[row]])
            measured = measured[front(measured)]
        spent += clock - start
        ended.append((row, stopped, clock - start, clock, share))
    columns = list(zip(*ended, strict=True)) if ended else [()] * 5
    return StoppingTrace(
        np.array(columns[0], dtype=np.int64),
        np.array(columns[1], dtype=bool),
        np.array(columns[2], dtype=np.float64),
        np.array(columns[3], dtype=np.float64),
        np.array(columns[4], dtype=np.float64),
    )
