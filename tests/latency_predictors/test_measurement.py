from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_predictors.measurement import Recording, combine, current_conditions, median_interval, summarise


def coverage(num: int, lo: int, hi: int) -> float:
    """P(x_(lo) <= median <= x_(hi)) by counting: between lo + 1 and hi samples lie below the median."""
    return sum(math.comb(num, k) for k in range(lo + 1, hi + 1)) / 2**num


@pytest.mark.parametrize("num", [6, 7, 10, 25, 60, 101])
def test_the_interval_covers_the_median_and_is_the_tightest(num: int) -> None:
    lo, hi = median_interval(num)
    assert coverage(num, lo, hi) >= 0.95
    assert coverage(num, lo + 1, hi - 1) < 0.95


@pytest.mark.parametrize("num", [1, 2, 3, 4, 5])
def test_few_samples_give_their_range(num: int) -> None:
    assert median_interval(num) == (0, num - 1)


def test_the_interval_covers_in_simulation() -> None:
    samples = np.sort(np.random.default_rng(0).lognormal(size=(4000, 31)), axis=1)
    lo, hi = median_interval(31)
    covered = np.mean((samples[:, lo] <= 1.0) & (samples[:, hi] >= 1.0))
    assert covered == pytest.approx(coverage(31, lo, hi), abs=0.012)


def test_summary_of_known_numbers() -> None:
    summary = summarise(np.arange(1.0, 102.0))
    assert (summary.median_ms, summary.iqr_ms, summary.p10_ms, summary.p90_ms) == (51.0, 50.0, 11.0, 91.0)
    assert summary.num_samples == 101


@given(st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50))
def test_summaries_are_ordered(samples: list[float]) -> None:
    s = summarise(samples)
    assert min(samples) <= s.ci95_ms[0] <= s.median_ms <= s.ci95_ms[1] <= max(samples)
    assert s.p10_ms <= s.median_ms <= s.p90_ms


@pytest.mark.parametrize("bad", [[], [1.0, math.nan], [0.0], [-1.0], [math.inf], [[1.0]]])
def test_impossible_samples_raise(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="samples_ms"):
        summarise(bad)


def recording(wall: list[float], cpu: list[float]) -> Recording:
    return Recording(
        subject="a",
        device="d",
        runtime="r",
        precision="float32",
        threads=1,
        wall_ms=tuple(wall),
        cpu_ms=tuple(cpu),
        conditions=current_conditions("1", False),
    )


def test_preempted_runs_are_left_out_and_counted() -> None:
    measurement = combine([recording([1.0] * 6, [1.0] * 8), recording([3.0] * 7, [2.0] * 8)])
    assert (measurement.clock, measurement.median_ms, measurement.num_preempted) == ("wall", 3.0, 3)


def test_processor_time_stands_in_when_nearly_all_runs_were_preempted() -> None:
    measurement = combine([recording([9.0], [1.0] * 20)])
    assert (measurement.clock, measurement.median_ms, measurement.num_samples) == ("thread_cpu", 1.0, 20)
