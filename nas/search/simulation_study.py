"""The same search with few and with many workers, in simulated time: what more workers bring, and what they waste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nas.search.settings import SamplerName
from nas.search.simulation import Durations, Schedule, Trace, simulate
from nas.search.table import CandidateTable, ReferenceName, TableSource

SHARES = (0.95, 0.98, 0.99, 0.995)
"""Of the true hypervolume, to which evaluations and time are told."""
_NUM_TIMES = 160


@dataclass(frozen=True)
class SimulationSettings:
    """One study: who proposes, how long evaluations take, when it ends."""

    source: TableSource
    sampler: SamplerName
    num_evaluations: int
    """Evaluations started at most, with each number of workers."""
    until: float | None
    """Share of the true hypervolume at which no more is started."""
    seconds: float | None
    """Median duration of an evaluation; None: as `seconds_column` says."""
    seconds_column: str | None
    """Column of the table that durations follow."""
    seconds_scale: float
    """Seconds a unit of that column."""
    spread: float
    """Standard deviation of the logarithm of the durations."""
    failures: float
    """Share of evaluations that fail."""
    proposal_ms: float
    """Time of the driver per proposal, simulated: results do not depend on how busy this machine is."""
    start_s: float
    """From the start to the workers' first evaluation."""
    reference: ReferenceName

    def durations(self, table: CandidateTable, seed: int) -> Durations:
        """Of the table's candidates, with one seed."""
        return Durations.draw(
            table, self.seconds, self.seconds_column, self.seconds_scale, self.spread, self.failures, seed
        )

    def schedule(self, num_workers: int) -> Schedule:
        """With so many workers."""
        return Schedule(num_workers, self.num_evaluations, self.proposal_ms / 1e3, self.start_s, self.until)

    def run(self, table: CandidateTable, num_workers: int, seed: int) -> Trace:
        """Simulate the search once.

        Raises:
            UserError: an unknown sampler, or durations that cannot be.
        """
        from nas.search.table_study import StudyDoor

        door = StudyDoor(table, self.sampler, seed, reference=self.reference)
        return simulate(door, table, self.durations(table, seed), self.schedule(num_workers), self.reference)


@dataclass(frozen=True)
class OverSeeds:
    """A figure over seeds; None where it was not reached."""

    median: float | None
    worst: float | None


@dataclass(frozen=True)
class Reached:
    """What a share of the true hypervolume took."""

    evaluations: OverSeeds
    hours: OverSeeds
    worker_hours: OverSeeds
    """Workers times hours: what is paid for, idle or not."""


@dataclass(frozen=True)
class OverTime:
    """Medians over seeds at the same times."""

    hours: tuple[float, ...]
    hypervolume: tuple[float, ...]
    evaluations: tuple[float, ...]
    busy: tuple[float, ...]
    """Share of the workers that evaluate something."""


@dataclass(frozen=True)
class WithWorkers:
    """What a number of workers achieved, medians over seeds where nothing else is said."""

    num_workers: int
    evaluations: float
    """Ended, failed ones included."""
    failed: float
    hours: float
    """To the last end."""
    utilisation: float
    """Share of the workers' time spent in evaluations."""
    hypervolume: OverSeeds
    """Share of the true one at the end."""
    reached: dict[str, Reached]
    """By share of the true hypervolume."""
    speed_up: float | None
    """How many times sooner than the fewest workers the most demanding share is there that both reach."""
    proposal_cpu_ms: OverSeeds
    """Processor time of proposals on this machine: median and 90th percentile."""
    over_time: OverTime


@dataclass(frozen=True)
class Simulation:
    """A finished study."""

    settings: SimulationSettings
    seeds: int
    table: str
    num_candidates: int
    front_size: int
    notes: tuple[str, ...]
    median_seconds: float
    """Of an evaluation, over the table."""
    workers: tuple[WithWorkers, ...] = field(default_factory=tuple)

    @property
    def driver_is_slower(self) -> bool:
        """Whether proposals took longer here than the simulated driver was given."""
        times = [w.proposal_cpu_ms.median for w in self.workers if w.proposal_cpu_ms.median is not None]
        return bool(times) and max(times) > self.settings.proposal_ms


def study(settings: SimulationSettings, table: CandidateTable, traces: Mapping[int, Sequence[Trace]]) -> Simulation:
    """Summarise simulated searches.

    Args:
        settings: that they were made with.
        table: that they looked up.
        traces: by number of workers, one a seed.
    """
    workers: list[WithWorkers] = []
    for number in sorted(traces):
        workers.append(_with_workers(number, traces[number], workers[0] if workers else None))
    return Simulation(
        settings=settings,
        seeds=len(next(iter(traces.values()))),
        table=table.name,
        num_candidates=len(table),
        front_size=len(table.front),
        notes=table.notes,
        median_seconds=float(np.median(settings.durations(table, 0).seconds)),
        workers=tuple(workers),
    )


def _with_workers(number: int, traces: Sequence[Trace], fewest: WithWorkers | None) -> WithWorkers:
    def median(values: Sequence[float]) -> float:
        return float(np.median(values))

    reached = {}
    for share in SHARES:
        hours = [None if (s := trace.seconds_to(share)) is None else s / 3600 for trace in traces]
        reached[f"{share:g}"] = Reached(
            over_seeds([trace.evaluations_to(share) for trace in traces]),
            over_seeds(hours),
            over_seeds([None if h is None else h * number for h in hours]),
        )
    times = np.concatenate([trace.proposal_cpu_s for trace in traces]) * 1e3
    ends = [float(trace.share[-1]) if len(trace) else 0.0 for trace in traces]
    return WithWorkers(
        num_workers=number,
        evaluations=median([len(trace) for trace in traces]),
        failed=median([int(trace.failed.sum()) for trace in traces]),
        hours=median([trace.seconds / 3600 for trace in traces]),
        utilisation=median([trace.utilisation for trace in traces]),
        hypervolume=over_seeds(ends, more_is_worse=False),
        reached=reached,
        speed_up=_speed_up(fewest, reached),
        proposal_cpu_ms=OverSeeds(float(np.median(times)), float(np.quantile(times, 0.9))),
        over_time=_over_time(traces),
    )


def over_seeds(values: Sequence[float | None], more_is_worse: bool = True) -> OverSeeds:
    """Median and worst; None, a figure that was not reached, counts as infinitely bad, and infinite ones are None."""
    never = np.inf if more_is_worse else -np.inf
    ordered = sorted(never if value is None else float(value) for value in values)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    worst = ordered[-1] if more_is_worse else ordered[0]
    return OverSeeds(*(value if np.isfinite(value) else None for value in (median, worst)))


def _speed_up(fewest: WithWorkers | None, reached: Mapping[str, Reached]) -> float | None:
    if fewest is None:
        return 1.0
    for share in reversed(list(reached)):
        before, now = fewest.reached[share].hours.median, reached[share].hours.median
        if before is not None and now is not None:
            return before / now
    return None


def _over_time(traces: Sequence[Trace]) -> OverTime:
    # From the first evaluation's start, or soon after it: times are looked at in decades, which have no zero.
    first = min(max(float(trace.started_s.min()), float(trace.ended_s[0]) / 100) for trace in traces)
    last = max(trace.seconds for trace in traces)
    seconds = np.geomspace(first, last, _NUM_TIMES) if last > first else np.array([first])
    # Rounding must not put the last time before the last end.
    seconds[-1] = last

    def median(rows: list[Any]) -> tuple[float, ...]:
        return tuple(np.median(rows, axis=0).tolist())

    return OverTime(
        hours=tuple((seconds / 3600).tolist()),
        hypervolume=median([trace.share_at(seconds) for trace in traces]),
        evaluations=median([trace.ended_by(seconds) for trace in traces]),
        busy=median([trace.busy_at(seconds) / trace.num_workers for trace in traces]),
    )
