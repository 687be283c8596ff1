"""Simulated time: closed forms for schedules that have one, invariants for those that have none."""

import itertools
import math
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.search.decisions import ExhaustedError, GridSpace
from nas.search.simulation import Durations, Schedule, simulate
from nas.search.simulation_study import SimulationSettings, over_seeds, study
from nas.search.table import CandidateTable, TableSource
from search_spaces.errors import UserError


def line(num: int, seed: int = 0) -> CandidateTable:
    """A table of one decision: the larger the number, the better and the dearer."""
    rng = np.random.default_rng(seed)
    values = np.stack([num - np.arange(num) + rng.random(num) / 2, 1.0 + np.arange(num)], axis=1)
    space = GridSpace({"d": tuple(range(num))})
    return CandidateTable("line", space, ("error", "cost"), (False, True), values, tuple(map(str, range(num))))


class InOrder:
    """Proposes rows 0, 1, 2 ...; keeps what happens in which order."""

    def __init__(self, num: int) -> None:
        self.rows = deque(range(num))
        self.log: list[tuple[str, int]] = []

    def ask(self) -> int:
        if not self.rows:
            raise ExhaustedError
        self.log.append(("ask", self.rows[0]))
        return self.rows.popleft()

    def tell(self, row: int, failed: bool) -> None:
        self.log.append(("failed" if failed else "tell", row))


@given(st.integers(1, 12), st.integers(1, 40), st.floats(0.1, 100), st.floats(0, 50))
def test_equal_durations_and_free_proposals(workers: int, num: int, seconds: float, start: float) -> None:
    table = line(40)
    door = InOrder(40)
    trace = simulate(door, table, Durations.draw(table, seconds), Schedule(workers, num, start_s=start))
    rounds = math.ceil(num / workers)
    assert trace.seconds == pytest.approx(start + rounds * seconds)
    assert trace.utilisation == pytest.approx(num * seconds / (workers * (start + rounds * seconds)))
    assert trace.rows.tolist() == list(range(num))
    batches = [range(i, min(i + workers, num)) for i in range(0, num, workers)]
    assert door.log == [(what, row) for batch in batches for what in ("ask", "tell") for row in batch]


@given(st.integers(1, 30), st.floats(0.01, 5))
def test_one_worker_waits_for_every_proposal(num: int, proposal: float) -> None:
    table = line(30)
    trace = simulate(InOrder(30), table, Durations.draw(table, 7.0), Schedule(1, num, proposal_s=proposal))
    assert trace.seconds == pytest.approx(num * (7 + proposal))
    assert trace.utilisation == pytest.approx(7 / (7 + proposal))


def test_many_workers_are_limited_by_the_driver() -> None:
    """1,000 workers, 10 s evaluations, 0.5 s proposals: 20 can be kept busy."""
    table = line(400)
    trace = simulate(InOrder(400), table, Durations.draw(table, 10.0), Schedule(1000, 400, proposal_s=0.5))
    assert trace.started_s == pytest.approx(0.5 * np.arange(1, 401)) and trace.seconds == pytest.approx(210)
    assert trace.busy_at(np.array([100.0])) == [20] and trace.ended_by(np.array([0.0, 10.5, 210.0])).tolist() == [
        0,
        1,
        400,
    ]


@given(st.integers(1, 9), st.floats(0, 3), st.floats(0, 0.6), st.integers(0, 9))
def test_nothing_happens_twice_or_before_its_time(workers: int, proposal: float, failures: float, seed: int) -> None:
    table = line(60)
    durations = Durations.draw(table, 5.0, spread=0.5, failures=failures, seed=seed)
    door = InOrder(60)
    trace = simulate(door, table, durations, Schedule(workers, 50, proposal_s=proposal))
    assert sorted(trace.rows) == list(range(50)) and (np.diff(trace.ended_s) >= 0).all()
    for worker in range(workers):
        own = trace.workers == worker
        spans = sorted(zip(trace.started_s[own], trace.ended_s[own], strict=True))
        # A worker that has ended waits for a proposal, which takes the driver's time.
        assert all(after[0] >= before[1] + proposal - 1e-9 for before, after in itertools.pairwise(spans))
    assert (np.diff(np.sort(trace.started_s)) >= proposal - 1e-9).all()
    begins = {int(row): start - proposal for row, start in zip(trace.rows, trace.started_s, strict=True)}
    ends = dict(zip(trace.rows.tolist(), trace.ended_s.tolist(), strict=True))
    told: set[int] = set()
    for what, row in door.log:  # what has ended is told before the next proposal begins, and nothing else is
        if what == "ask":
            assert all((ends[other] <= begins[row] + 1e-9) for other in told)
            assert all(other in told for other in ends if ends[other] < begins[row] - 1e-9)
        else:
            told.add(row)
    length = trace.ended_s - trace.started_s
    assert length == pytest.approx((durations.seconds * np.minimum(1, durations.fails_after))[trace.rows])
    assert {row for what, row in door.log if what == "failed"} == set(trace.rows[trace.failed].tolist())


def test_failed_evaluations_add_nothing_to_the_front() -> None:
    table = line(20)
    durations = Durations.draw(table, 1.0, failures=1.0)
    trace = simulate(InOrder(20), table, durations, Schedule(3, 20))
    assert trace.failed.all() and (trace.share == 0).all() and trace.evaluations_to(0.1) is None


def test_it_stops_when_enough_is_found_or_nothing_is_left() -> None:
    table = line(30)
    whole = simulate(InOrder(30), table, Durations.draw(table, 1.0), Schedule(1, 100))
    assert len(whole) == 30 and whole.share[-1] == 1
    number = whole.evaluations_to(0.5)
    assert number is not None and whole.share[number - 2] < 0.5 <= whole.share[number - 1]
    assert whole.seconds_to(0.5) == number and whole.share_after(number) == whole.share[number - 1]
    assert whole.share_at(np.array([0.5, number - 0.5, number])).tolist() == [0, *whole.share[number - 2 : number]]
    stopped = simulate(InOrder(30), table, Durations.draw(table, 1.0), Schedule(4, 100, until=0.5))
    assert len(stopped) == 4 * math.ceil(number / 4)  # what runs is finished


def test_durations() -> None:
    table = line(5000)
    drawn = Durations.draw(table, 600, spread=0.3, failures=0.2, seed=1)
    assert np.median(drawn.seconds) == pytest.approx(600, rel=0.03)
    assert np.log(drawn.seconds).std() == pytest.approx(0.3, rel=0.05)
    assert np.isfinite(drawn.fails_after).mean() == pytest.approx(0.2, abs=0.03)
    assert (drawn.seconds == Durations.draw(table, 600, spread=0.3, failures=0.9, seed=1).seconds).all()
    assert (drawn.seconds != Durations.draw(table, 600, spread=0.3, seed=2).seconds).all()
    assert (Durations.draw(table, column="cost", scale=2).seconds == 2 * table.values[:, 1]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either seconds or a column"),
        ({"seconds": 1.0, "column": "cost"}, "either seconds or a column"),
        ({"column": "hours"}, "no column 'hours' was read; legal are error, cost"),
        ({"seconds": 0.0}, "seconds gives 0 s"),
        ({"column": "cost", "scale": -1.0}, "cost gives -9 s"),
    ],
)
def test_impossible_durations(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Durations.draw(line(9), **options)


def test_over_seeds() -> None:
    assert over_seeds([3, 1, 2]).median == 2 and over_seeds([3, 1, 2]).worst == 3
    assert over_seeds([1, 4, None]).median == 4 and over_seeds([1, 4, None]).worst is None
    assert over_seeds([1, None]).median is None
    assert over_seeds([0.5, 0.9, None], more_is_worse=False).median == 0.5


def test_a_study_of_perfect_division() -> None:
    """Rows in order, equal times: ten workers are there ten times sooner, at the same price."""
    table = line(200)
    settings = SimulationSettings(
        TableSource("line.csv"), "random", 200, None, 36.0, None, 1.0, 0.0, 0.0, 0.0, 0.0, "worst"
    )
    traces = {
        workers: [simulate(InOrder(200), table, settings.durations(table, 0), settings.schedule(workers))]
        for workers in (10, 1)
    }
    found = study(settings, table, traces)
    one, ten = found.workers
    assert (one.num_workers, ten.num_workers) == (1, 10)
    assert one.hours == pytest.approx(2) and ten.hours == pytest.approx(0.2)
    assert one.utilisation == pytest.approx(1) and ten.utilisation == pytest.approx(1)
    assert one.speed_up == 1 and ten.speed_up == pytest.approx(10, rel=0.06)
    assert one.reached["0.99"].evaluations == ten.reached["0.99"].evaluations
    assert ten.over_time.hypervolume[-1] == 1 and ten.over_time.hours[-1] == pytest.approx(0.2)
    assert set(ten.over_time.busy) == {1.0}
