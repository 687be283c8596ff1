"""When evaluations end early: forecasts against regression and coverage, decisions against brute force."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import front
from nas.search.decisions import GridSpace
from nas.search.learning_curves import LearningCurves, Point
from nas.search.simulation_rungs import RungTable, simulate_stopping
from nas.search.stopping import Stopper, StoppingSettings, dominating, ranked
from nas.search.table import CandidateTable


def curves_of(rng, num, noise=0.1, steps=10):
    """(errors at a rung, final errors): lines in logarithms with Gaussian noise."""
    x = rng.uniform(-1.5, 0.0, num)
    return 10**x, 10 ** (-0.3 + 0.8 * x + noise * rng.standard_normal(num))


def test_a_forecast_from_many_curves_is_that_of_plain_regression():
    rng = np.random.default_rng(0)
    at, final = curves_of(rng, 3000)
    curves = LearningCurves()
    for a, f in zip(at, final, strict=True):
        curves.add([Point(10, a)], f)
    slope, level = np.polyfit(np.log10(at), np.log10(final), 1)
    spread = np.std(np.log10(final) - level - slope * np.log10(at))
    found = curves.forecast(Point(10, 0.2), 0.05)
    middle = level + slope * math.log10(0.2)
    assert math.log10(found.median) == pytest.approx(middle, abs=1e-3)
    assert math.log10(found.low) == pytest.approx(middle - 1.645 * spread, abs=3e-3)
    assert math.log10(found.high) == pytest.approx(middle + 1.645 * spread, abs=3e-3)
    # A rung that was measured with more noise says less.
    noisy = curves.forecast(Point(10, 0.2, standard_error=0.2), 0.05)
    assert noisy.low < found.low and noisy.high > found.high and noisy.median == found.median


@pytest.mark.parametrize("num", [8, 30])
@pytest.mark.parametrize("risk", [0.05, 0.2])
def test_final_errors_are_below_the_optimistic_one_no_oftener_than_said(num, risk):
    rng = np.random.default_rng(1)
    below = 0
    for _ in range(600):
        at, final = curves_of(rng, num + 1, noise=rng.uniform(0.02, 0.3))
        curves = LearningCurves()
        for a, f in zip(at[1:], final[1:], strict=True):
            curves.add([Point(10, a)], f)
        below += final[0] < curves.forecast(Point(10, at[0]), risk).optimistic
    # Three standard deviations of so many tosses above the risk.
    assert below / 600 <= risk + 3 * math.sqrt(risk * (1 - risk) / 600)


def test_nothing_is_known_at_first_and_of_other_rungs():
    curves = LearningCurves(least=8)
    for i in range(7):
        curves.add([Point(10, 0.1 * (i + 1))], 0.05 * (i + 1))
    assert curves.forecast(Point(10, 0.3), 0.05).optimistic == 0.0
    wide, known = curves.forecast(Point(20, 0.3), 0.05), curves.forecast(Point(10, 0.3), 0.05)
    assert wide.median == pytest.approx(0.3) and wide.high / wide.low > known.high / known.low
    curves.add([Point(10, 0.8)], 0.4)
    assert 0 < curves.forecast(Point(10, 0.3), 0.05).optimistic < 0.3


values = st.sampled_from([0.1, 0.2, 0.3, 0.5])  # few, so that there are ties


@given(st.lists(st.tuples(values, values, values), max_size=12), st.tuples(values, values, values))
def test_dominated_is_as_defined(rows, point):
    points = np.array(rows).reshape(-1, 3)
    expected = not front(np.vstack([points, point]))[-1]
    by = dominating(np.array(point), points)
    assert (by is not None) == expected
    if by is not None:
        assert (points[by] <= point).all() and (points[by] < point).any()


@given(st.data())
def test_a_candidate_is_stopped_exactly_where_its_optimistic_end_is_dominated(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    at, final = curves_of(rng, 12)
    stopper = Stopper(StoppingSettings("dominance"))
    cost = rng.uniform(0, 1, (13, 2))
    for i, (a, f) in enumerate(zip(at, final, strict=True)):
        stopper.finished(str(i), [Point(10, a)], cost[i].tolist(), f)
    measured = np.column_stack([final, cost[:12]])
    own = Point(10, float(10 ** rng.uniform(-2, 0)))
    best = stopper.curves.forecast(own, 0.05).optimistic
    beaten = ((measured <= [best, *cost[12]]).all(axis=1) & (measured < [best, *cost[12]]).any(axis=1)).any()
    verdict = stopper.decide("own", [own], cost[12].tolist(), measured[front(measured)])
    assert verdict.stop == beaten and bool(verdict.reason) == beaten


def test_nobody_is_stopped_too_soon_or_below_the_floor():
    stopper = Stopper(StoppingSettings("dominance", least_curves=5))
    best = np.array([[0.01, 0.0, 0.0]])
    for i in range(5):
        assert not stopper.decide(f"c{i}", [Point(10, 0.9)], (1.0, 1.0), best).stop
        stopper.finished(f"c{i}", [Point(10, 0.9 - 0.01 * i)], (1.0, 1.0), 0.8)
    assert stopper.decide("bad", [Point(10, 0.9)], (1.0, 1.0), best).stop
    assert not stopper.decide("good", [Point(10, 0.001)], (1.0, 1.0), best).stop
    # Costs that nobody else has as low: whatever its error, it is on the front.
    assert not stopper.decide("cheap", [Point(10, 0.9)], (-1.0, 1.0), best).stop
    assert not Stopper(StoppingSettings("none")).decide("bad", [Point(10, 0.9)], (1.0, 1.0), best).stop


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=14))
def test_ranks_go_by_layers_and_hold_everybody(rows):
    points = np.array(rows)
    order = ranked(points)
    assert sorted(order.tolist()) == list(range(len(rows)))
    left, layer = list(range(len(rows))), {}
    for number in itertools.count():
        if not left:
            break
        good = [
            i for i in left if not any((points[j] <= points[i]).all() and (points[j] < points[i]).any() for j in left)
        ]
        layer |= dict.fromkeys(good, number)
        left = [i for i in left if i not in good]
    assert [layer[i] for i in order] == sorted(layer.values())


def test_successive_halving_keeps_one_in_so_many():
    stopper = Stopper(StoppingSettings("moasha", reduction_factor=3.0))
    nothing = np.empty((0, 2))
    # One known cost, the same for all: the rank is that by error.
    verdicts = [
        stopper.decide(str(i), [Point(1, e)], (1.0,), nothing).stop for i, e in enumerate([0.5, 0.6, 0.7, 0.4, 0.45])
    ]
    # Two know too little of others; 0.7 is third of 3, of which 1 goes on; 0.4 first; 0.45 second of 5, of which 2 do.
    assert verdicts == [False, False, True, False, False]


class Rows:
    """Proposes rows in an order, and keeps what it is told."""

    def __init__(self, order):
        self.order, self.told = list(order), []

    def ask(self):
        from nas.search.decisions import ExhaustedError

        if not self.order:
            raise ExhaustedError
        return self.order.pop(0)

    def tell(self, row, failed):
        self.told.append((row, None))

    def tell_stopped(self, row, forecast):
        self.told.append((row, forecast))


@pytest.mark.parametrize("seed", [0, 1])
def test_simulated_sweeps_lose_no_more_of_the_front_than_said(seed):
    """Every row is proposed; lines with Gaussian noise are the truth that the forecast assumes."""
    rng = np.random.default_rng(seed)
    num = 400
    cost = rng.uniform(0, 1, num)
    at = 10 ** (-0.8 * cost - 0.3 + 0.25 * rng.random(num))
    final = at**1.2 * 10 ** (-0.2 + 0.05 * rng.standard_normal(num))
    values = np.column_stack([final, cost])
    space = GridSpace({"d": tuple(range(num))})
    table = CandidateTable("line", space, ("error", "cost"), (False, True), values, tuple(map(str, range(num))))
    curves = RungTable((10,), at[:, None], np.array([10.0, 100.0]), 95.0)
    plain = simulate_stopping(Rows(range(num)), table, curves, StoppingSettings("none"), 1e9)
    assert plain.share[-1] == 1.0 and plain.spent.tolist() == [95.0] * num and not plain.stopped.any()
    door = Rows(range(num))
    trace = simulate_stopping(door, table, curves, StoppingSettings("dominance", risk=0.05), 1e9, num_workers=3)
    assert len(trace.rows) == num and trace.met(table) == len(table.front)
    assert trace.lost(table) <= max(1, 0.05 * len(table.front))
    assert trace.spent.sum() < 0.6 * plain.spent.sum() and trace.share[-1] > 0.98
    assert [forecast is not None for _, forecast in door.told] == trace.stopped.tolist()
    assert set(trace.spent[trace.stopped]) == {10.0} and set(trace.spent[~trace.stopped]) == {100.0}
    assert trace.ended[-1] == pytest.approx(trace.spent.sum() / 3, rel=0.02)


def test_a_budget_ends_a_simulated_sweep():
    rng = np.random.default_rng(0)
    table = CandidateTable(
        "t", GridSpace({"d": tuple(range(20))}), ("error", "cost"), (False, True), rng.random((20, 2)), tuple("x" * 20)
    )
    curves = RungTable((10,), rng.random((20, 1)), np.array([10.0, 100.0]), 95.0)
    trace = simulate_stopping(Rows(range(20)), table, curves, StoppingSettings("none"), 5 * 95.0)
    assert len(trace.rows) == 5
