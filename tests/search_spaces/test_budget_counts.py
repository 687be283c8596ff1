"""Bounds on how many combinations are within a budget, against counting them all."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.budget_counts import count_within

COSTS = st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=5), min_size=1, max_size=5)


@given(COSTS, st.floats(0, 1))
def test_bounds_hold_what_counting_finds(costs: list[list[int]], share: float) -> None:
    sums = np.array([sum(row) for row in itertools.product(*costs)])
    budget = float(sums.min() + share * (sums.max() - sums.min()))
    low, high = count_within([np.array(stage) for stage in costs], budget)
    assert low <= np.count_nonzero(sums <= budget) <= high
    # A budget is cut into 65,536 buckets, so only sums within as many buckets of it as there are stages are in doubt.
    width = (budget - sums.min()) / 65_536 * (len(costs) + 1) + 1e-3
    assert high - low <= np.count_nonzero(np.abs(sums - budget) <= width)


@given(COSTS)
def test_ends_are_exact(costs: list[list[int]]) -> None:
    sums = np.array([sum(row) for row in itertools.product(*costs)])
    tables = [np.array(stage) for stage in costs]
    cheapest = float(np.count_nonzero(sums == sums.min()))
    assert count_within(tables, float(sums.min())) == (cheapest, cheapest)
    assert count_within(tables, float(sums.min()) - 1) == (0, 0)
    assert count_within(tables, 3.0 * sums.max() + 1e6)[0] == len(sums)
