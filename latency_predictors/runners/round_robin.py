"""The measuring loop that runners share: one run of every subject a round, robust on a shared machine.

*Drift* (frequency, memory pressure) changes over seconds: every round times every subject once, in
random order, so all medians are taken over the same moments.

*Preemption* makes one run several times too long: with one thread the wall time of a run is compared
with the processor time of the thread, and runs that lost the processor are left out.

*Caches* are the large trap for networks of a few megabytes. Measured on toy U-Nets (2 cores, 32 MB L3):
a run in a tight loop takes 0.12-1.2 ms and one after 60 other networks 0.37-2.7 ms; on a busy machine the
loop is never reached by the larger networks (another process takes the cache every few
milliseconds), so medians of the same U-Net differ by up to 108 % from one session to the next, and sums
of stages miss whole networks by 5-35 %. Networks of real size never fit a cache. So the caches are
emptied before every run, by reading a block twice as large as the last cache: what is timed is a run
whose weights come from memory. The state is then the same whatever was measured before, alone or
among many (ratio 0.98-1.02). A primer, a network with the same operators but weights of its own, is run after
that and before the timed one, so that the instructions are not read from memory too: a whole
network needs that once, but each of its stages measured alone would pay for it again.

The price: networks that fit the caches run faster in a tight loop than the latency stated here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latency_predictors.measurement import Recording, combine
from latency_predictors.runners.base import Announce, MeasureSettings

Run = Callable[[], object]

_LONG_RUN_MS = 100.0  # above this cold instructions are lost in the run's own length
_WARM_RUN_MS = 1000.0  # a run of this length is warm after one: what it allocates is there, caches hold none of it
_PASS_MS = 60_000.0  # about the most that a kill may lose
_LINE = 8  # float64 values of a cache line: one of them brings in the line
_DEFAULT_CACHE_BYTES = 32 << 20
_MAX_EVICT_BYTES = 256 << 20


class Samples(NamedTuple):
    """Runs of one subject in one pass, milliseconds: those that kept the processor, and all of them."""

    wall_ms: list[float]
    cpu_ms: list[float]


def round_robin(
    runs: Mapping[str, Run],
    settings: MeasureSettings,
    *,
    single_thread: bool,
    load_primer: Callable[[], Run],
    announce: Announce | None = None,
) -> Iterator[dict[str, Samples]]:
    """Endless passes over the runs, each of `rounds_per_pass` rounds, or of as many (at least one) as last a minute.

    `single_thread` says that a run stays on the calling thread. `load_primer` is called once if at
    all: a primer of long runs need not be in memory. `announce` is told which subject is turned to, each time.
    """
    turn_to = announce or (lambda name: None)
    length_ms: dict[str, float] = {}
    for name, run in runs.items():
        turn_to(name)
        length_ms[name] = _warm_up(run, settings.warm_up)
    short = {name for name in runs if length_ms[name] < _LONG_RUN_MS}
    primer: Run | None = None
    if short:
        primer = load_primer()
        _warm_up(primer, settings.warm_up)
    block = np.ones(_evict_bytes() // 8)
    rng = np.random.default_rng(settings.seed)
    names = list(runs)
    num_rounds = max(1, min(settings.rounds_per_pass, int(_PASS_MS / max(1e-6, sum(length_ms.values())))))
    while True:
        samples = {name: Samples([], []) for name in names}
        for _ in range(num_rounds):
            for index in rng.permutation(len(names)):
                name = names[index]
                turn_to(name)
                block[::_LINE].sum()
                if primer is not None and name in short:
                    primer()
                _time_once(runs[name], samples[name], single_thread)
        yield samples


def _time_once(run: Run, samples: Samples, single_thread: bool) -> None:
    cpu_begin = time.thread_time_ns()
    begin = time.perf_counter_ns()
    run()
    wall_ns = time.perf_counter_ns() - begin
    cpu_ns = max(1, time.thread_time_ns() - cpu_begin)
    # With several threads the processor time of this one says nothing about waiting.
    if not single_thread or wall_ns - cpu_ns <= max(20_000, 0.02 * wall_ns):
        samples.wall_ms.append(wall_ns / 1e6)
    samples.cpu_ms.append((cpu_ns if single_thread else wall_ns) / 1e6)


def _warm_up(run: Run, num_runs: int) -> float:
    """Lets the runtime allocate its arena, once where runs are long; the length of the last run, milliseconds."""
    length_ms = 0.0
    for _ in range(num_runs):
        begin = time.perf_counter_ns()
        run()
        length_ms = (time.perf_counter_ns() - begin) / 1e6
        if length_ms >= _WARM_RUN_MS:
            break
    return length_ms


@cache
def _evict_bytes() -> int:
    """Twice the largest cache that the first core sees."""
    largest = 0
    for size in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = size.read_text().strip()
            largest = max(largest, int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return min(2 * (largest or _DEFAULT_CACHE_BYTES), _MAX_EVICT_BYTES)


class Session:
    """Decides after each pass whether a measuring session is over; keeps what was recorded."""

    def __init__(
        self, num_subjects: int, settings: MeasureSettings, cpu_clock: Callable[[], float] = time.process_time
    ) -> None:
        """`cpu_clock` gives the processor time, in seconds, of the process that measures.

        Where the runs are on another device, that process only waits: what they took there counts instead.
        """
        self._settings = settings
        self._limit_s = settings.max_seconds * num_subjects
        self._cpu_clock = cpu_clock
        self._wall_start, self._cpu_start = time.perf_counter(), cpu_clock()
        self._first_pass_id, self._timed_s = time.time_ns(), 0.0
        self.recordings: dict[str, list[Recording]] = {}

    def add(self, recordings: Mapping[str, Recording]) -> None:
        """Keeps one pass (or an earlier session's, before the first)."""
        for name, recording in recordings.items():
            self.recordings.setdefault(name, []).append(recording)
            if recording.pass_id >= self._first_pass_id:
                self._timed_s += sum(recording.cpu_ms) / 1e3

    @property
    def num_rounds(self) -> int:
        """Rounds of the subject with the fewest."""
        return min((sum(len(r.cpu_ms) for r in rs) for rs in self.recordings.values()), default=0)

    @property
    def share(self) -> float:
        """Share of the time limit that is used, in [0, 1]: for a progress line; tight intervals may end it sooner."""
        wall_s, cpu_s = self._spent_s
        return min(1.0, min(wall_s, cpu_s) / self._limit_s)

    @property
    def is_over(self) -> bool:
        """Whether the intervals are tight, or the time is up."""
        # Where others have the processor half of the time, the wall clock would allow half of the
        # samples just when more are needed. With several threads the wall clock is the slower one.
        wall_s, cpu_s = self._spent_s
        if min(wall_s, cpu_s) >= self._limit_s:
            return True
        return self.num_rounds >= self._settings.min_repeats and all(
            combine(rs).ci95_half_width_pct <= self._settings.target_ci_pct for rs in self.recordings.values()
        )

    @property
    def _spent_s(self) -> tuple[float, float]:
        cpu_s = self._cpu_clock() - self._cpu_start
        return time.perf_counter() - self._wall_start, max(cpu_s, self._timed_s)
