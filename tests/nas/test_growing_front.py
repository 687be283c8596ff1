"""Fronts and volumes that grow point by point, against definitions, moocore, and the same points in one go."""

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.growing_front import DominatedVolume, GrowingFront, improving_rows
from nas.pareto import ERROR_FLOOR, FrontTracker, front, hypervolume

SIDE = 5


def grids(objectives):
    """Few distinct values: ties in one objective and whole duplicates are common."""
    row = st.tuples(*[st.integers(0, SIDE)] * objectives)
    return st.lists(row, min_size=1, max_size=30).map(lambda rows: np.array(rows, float))


some_grid = st.integers(1, 4).flatmap(grids)
# Errors below the floor, at it and over decades; costs beyond the bounds on both sides, and equal ones.
evaluations = st.lists(
    st.tuples(
        st.sampled_from([0.0, 1e-5, 1e-3, 0.002, 0.03, 0.5, 8.0]) | st.floats(0, 10),
        st.integers(0, 8).map(float),
        st.integers(99, 112).map(float),
    ),
    min_size=1,
    max_size=25,
).map(np.array)
BOUNDS = (np.array([1.0, 100.0]), np.array([6.0, 110.0]))


def covers(a, b):
    return all(x <= y for x, y in zip(a, b, strict=True))


@given(some_grid)
def test_a_growing_front_is_the_front_of_every_prefix(values):
    grown = GrowingFront(values.shape[1])
    for n, row in enumerate(values):
        assert grown.add(row) == (not any(covers(earlier, row) for earlier in values[:n]))
        seen = values[: n + 1]
        # By definition, and by moocore.
        expected = [a for a in seen if not any(covers(b, a) and not covers(a, b) for b in seen)]
        assert sorted(map(tuple, grown.points)) == sorted(set(map(tuple, expected)))
        if values.shape[1] > 1:
            assert len(grown) == moocore.is_nondominated(seen, keep_weakly=False).sum()
        assert grown.covers(row)


@given(some_grid)
def test_rows_that_improve_are_those_that_no_earlier_one_covers(values):
    expected = [i for i, row in enumerate(values) if not any(covers(earlier, row) for earlier in values[:i])]
    assert improving_rows(values).tolist() == expected


def test_improving_rows_across_blocks():
    rng = np.random.default_rng(0)
    values = rng.random((20_000, 3)) + np.linspace(0.5, 0, 20_000)[:, None]
    grown = GrowingFront(3)
    assert improving_rows(values).tolist() == [i for i, row in enumerate(values) if grown.add(row)]
    assert len(grown) == front(values).sum() > 30


@given(st.integers(1, 3).flatmap(grids))
@settings(max_examples=60)
def test_the_volume_counts_the_covered_cells(values):
    reference = np.array([4, 5, 3])[: values.shape[1]]  # some points lie on it or beyond
    cells = np.stack(np.meshgrid(*[np.arange(r) for r in reference], indexing="ij"), -1).reshape(-1, len(reference))
    grown, before = DominatedVolume(reference), 0.0
    for n, row in enumerate(values):
        gain = grown.add(row)
        counted = sum(any((value <= cell).all() for value in values[: n + 1]) for cell in cells)
        assert grown.volume == pytest.approx(counted, abs=1e-9)
        assert gain == pytest.approx(counted - before, abs=1e-9)
        before = counted


def test_the_volume_equals_moocores_over_many_points():
    rng = np.random.default_rng(1)
    for scale in (0.0, 0.2):  # a thin shell, nearly all of it front; then a cloud behind it
        angles = np.abs(rng.normal(size=(1500, 3)))
        values = 1 - angles / np.linalg.norm(angles, axis=1, keepdims=True) + scale * rng.random((1500, 3))
        grown = DominatedVolume(np.ones(3))
        for row in values:
            grown.add(row)
        assert grown.volume == pytest.approx(float(moocore.hypervolume(values, ref=np.ones(3))), abs=1e-13)
        assert scale or len(grown.points) > 1400


@given(evaluations, st.data())
@settings(max_examples=60, deadline=None)
def test_values_at_once_and_one_by_one_give_the_same(values, data):
    cut = data.draw(st.integers(0, len(values)))
    one, many, mixed = FrontTracker(BOUNDS), FrontTracker(BOUNDS), FrontTracker(BOUNDS)
    for row in values:
        one.add(row)
    many.extend(values)
    mixed.extend(values[:cut])
    for row in values[cut:]:
        mixed.add(row)
    expected = sorted(set(map(tuple, values[front(values)])))
    for tracker in (one, many, mixed):
        assert sorted(map(tuple, tracker.points)) == expected
        assert tracker.hypervolume == pytest.approx(one.hypervolume, abs=1e-12)
    # The rule of nas.pareto, written out: decades of error and costs in [0, 1], nothing better than the ideal.
    decades = np.log10(np.maximum(values[:, 0], ERROR_FLOOR) / ERROR_FLOOR)
    worst = decades.max()
    unit = np.stack([decades / (worst or 1.0), (values[:, 1] - 1) / 5, (values[:, 2] - 100) / 10], axis=1)
    assert one.hypervolume == pytest.approx(hypervolume(np.maximum(unit, 0), np.full(3, 1.1)) / 1.1**3, abs=1e-9)


def test_nothing_has_no_volume():
    tracker = FrontTracker(BOUNDS)
    tracker.extend(np.zeros((0, 3)))
    assert (tracker.size, tracker.hypervolume) == (0, 0)
    assert improving_rows(np.zeros((0, 3))).tolist() == []
