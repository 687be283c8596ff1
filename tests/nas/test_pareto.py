"""The front and the hypervolume against their definitions, on integer grids where both can be counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.pareto import (
    ERROR_FLOOR,
    REFERENCE,
    FrontTracker,
    ObjectiveScale,
    front,
    hypervolume,
    hypervolume_history,
)

SIDE = 5
# Few distinct values: ties in one objective and whole duplicates are common.
points = st.lists(st.tuples(*[st.integers(0, SIDE)] * 3), min_size=1, max_size=25).map(lambda p: np.array(p, float))
# Errors over five decades, costs of which several are equal.
evaluations = st.lists(
    st.tuples(st.floats(1e-5, 10), st.integers(1, 6).map(float), st.integers(100, 110).map(float)),
    min_size=1,
    max_size=20,
).map(np.array)
BOUNDS = (np.array([1.0, 100.0]), np.array([6.0, 110.0]))


def dominated(a, b):
    """Whether b dominates a, by definition."""
    return all(b <= a) and any(b < a)


def counted_volume(values, reference):
    """Unit cells of the integer grid whose lower corner some point covers."""
    cells = np.stack(np.meshgrid(*[np.arange(r) for r in reference], indexing="ij"), -1).reshape(-1, len(reference))
    return sum(any((value <= cell).all() for value in values) for cell in cells)


@given(points)
def test_front_is_what_nothing_dominates(values):
    expected = [not any(dominated(a, b) for b in values) for a in values]
    assert front(values).tolist() == expected


@given(points)
@settings(max_examples=50)
def test_hypervolume_counts_the_covered_cells(values):
    reference = (4, 5, 3)  # some points lie on or beyond it
    assert hypervolume(values, reference) == pytest.approx(counted_volume(values, reference), abs=1e-9)


def test_nothing_has_an_empty_front_and_no_volume():
    assert front(np.zeros((0, 3))).shape == (0,)
    assert hypervolume(np.zeros((0, 3)), (1, 1, 1)) == 0
    assert hypervolume([[1.0, 0.0, 0.0]], (1, 1, 1)) == 0


def test_a_value_that_is_not_finite_is_refused():
    with pytest.raises(AssertionError, match="finite"):
        front([[np.nan, 1.0, 2.0]])


def test_scaled_hypervolume_of_one_point_in_closed_form():
    # Two decades of error, the point in the middle of them and of both costs.
    scale = ObjectiveScale.of(
        [[100 * ERROR_FLOOR, 2.0, 20.0], [10 * ERROR_FLOOR, 1.0, 10.0]], ([0.0, 0.0], [2.0, 20.0])
    )
    assert scale.unit([[10 * ERROR_FLOOR, 1.0, 10.0]]) == pytest.approx(np.full((1, 3), 0.5))
    share = ((REFERENCE - 0.5) / REFERENCE) ** 3
    assert scale.hypervolume([[10 * ERROR_FLOOR, 1.0, 10.0]]) == pytest.approx(share)
    # An error below the floor is as good as the floor; the ideal covers the whole box.
    assert scale.hypervolume([[0.0, 0.0, 0.0]]) == pytest.approx(1)


def test_an_objective_without_a_range_does_not_matter():
    scale = ObjectiveScale.of([[0.1, 3.0, 7.0], [0.01, 3.0, 9.0]])
    assert scale.unit([[0.1, 3.0, 9.0]])[0, 1] == 0


@given(evaluations)
@settings(max_examples=60)
def test_history_is_the_hypervolume_of_every_prefix(values):
    scale = ObjectiveScale.of(values, BOUNDS)
    expected = [scale.hypervolume(values[: n + 1]) for n in range(len(values))]
    assert hypervolume_history(values, scale) == pytest.approx(expected, abs=1e-12)


@given(evaluations)
@settings(max_examples=60)
def test_tracker_agrees_with_the_history_and_never_falls(values):
    tracker = FrontTracker(BOUNDS)
    before = 0.0
    for n, row in enumerate(values):
        tracker.add(row)
        seen = values[: n + 1]
        expected = hypervolume_history(seen, ObjectiveScale.of(seen, BOUNDS))[-1]
        assert tracker.hypervolume == pytest.approx(expected, abs=1e-12)
        assert tracker.size == len(np.unique(seen[front(seen)], axis=0))
        assert tracker.hypervolume >= before - 1e-12
        before = tracker.hypervolume
