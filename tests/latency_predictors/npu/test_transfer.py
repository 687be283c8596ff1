"""Transfer to a new device: on devices made by a known law, and against brute force."""

import numpy as np
import pytest

from latency_predictors.npu import transfer
from latency_predictors.npu.transfer import Sources, choose, interval_scale, predict

NUM_ROWS, NUM_SOURCES = 60, 5


@pytest.fixture
def made():
    """Log ms of devices that differ by offset, slope in size, and one shared pattern."""
    rng = np.random.default_rng(0)
    size = np.sort(rng.uniform(-1, 6, NUM_ROWS))
    pattern = rng.normal(0, 0.2, NUM_ROWS)

    def device(offset, slope, weight, noise=0.01):
        return size + offset + slope * (size - 2.5) + weight * pattern + rng.normal(0, noise, NUM_ROWS)

    laws = zip(rng.normal(0, 1, 5), rng.normal(0, 0.03, 5), (0, 1, -1, 0.5, 0), strict=True)
    sources = np.stack([device(*law) for law in laws], 1)
    return Sources.of(sources, ["dlc"] * NUM_ROWS), device(1.3, 0.05, 0.7)


def test_a_device_of_the_sources_law_is_predicted_from_ten_rows(made):
    sources, target = made
    measured = np.arange(0, NUM_ROWS, 6)
    found = predict(sources, measured, target[measured])
    rest = np.setdiff1d(np.arange(NUM_ROWS), measured)
    one_ratio = sources.level + np.median((target - sources.level)[measured])
    error, baseline = (np.abs(p - target)[rest].mean() for p in (found.mean, one_ratio))
    assert error < 0.06
    assert error < baseline / 2


def test_gross_errors_in_a_fifth_of_the_measurements_hardly_matter(made):
    sources, target = made
    measured = np.arange(0, NUM_ROWS, 3)
    spoilt = target[measured].copy()
    spoilt[::5] += np.log(4)
    rest = np.setdiff1d(np.arange(NUM_ROWS), measured)
    assert np.abs(predict(sources, measured, spoilt).mean - target)[rest].mean() < 0.08


def test_scaling_the_device_scales_the_prediction(made):
    sources, target = made
    measured = np.arange(0, NUM_ROWS, 3)
    at_once = predict(sources, measured, target[measured]).mean
    slower = predict(sources, measured, target[measured] + 0.1).mean
    np.testing.assert_allclose(slower - at_once, 0.1, atol=0.02)


def test_intervals_narrow_with_more_measurements(made):
    sources, target = made
    few, many = (np.arange(0, NUM_ROWS, step) for step in (30, 3))
    assert predict(sources, many, target[many]).sd.mean() < predict(sources, few, target[few]).sd.mean()


def test_the_first_choice_is_the_best_of_all_by_brute_force(made):
    sources, _ = made
    queries = np.arange(50, 60)
    design = transfer._contrast_model(sources, slope_sd=0.1, contrast_sd=0.2, noise_sd=0.07).design
    prior = design @ design.T

    def left(row):
        with_row = prior[queries, row] ** 2 / (prior[row, row] + 0.07**2)
        return (np.diag(prior)[queries] - with_row).sum()

    assert choose(sources, range(50), queries, 1) == [min(range(50), key=left)]


def test_choices_are_nested_distinct_and_bounded(made):
    sources, _ = made
    queries = np.arange(50, 60)
    ten = choose(sources, range(50), queries, 10)
    assert len(set(ten)) == 10
    assert choose(sources, range(50), queries, 4) == ten[:4]
    assert sorted(choose(sources, [1, 2, 3], queries, 10)) == [1, 2, 3]


def test_what_a_source_lacks_is_filled_from_the_pattern_it_shares():
    rng = np.random.default_rng(1)
    pattern = rng.normal(0, 0.3, 80)
    log_ms = np.outer(pattern, [1, -1, 0.8, -0.8, 0, 0.5]) + rng.uniform(0, 5, 80)[:, None]
    holed = log_ms.copy()
    holed[:8, 0] = np.nan
    found, full = (Sources.of(table, ["dlc"] * 80).contrasts[:8, 0] for table in (holed, log_ms))
    assert np.corrcoef(found, full)[0, 1] > 0.95


def test_the_scale_is_what_the_neediest_device_needed():
    rng = np.random.default_rng(2)
    normal = rng.normal(size=20_000)
    assert interval_scale([normal]) == pytest.approx(1.0, abs=0.03)
    assert interval_scale([normal, 2 * normal, 0.1 * normal]) == pytest.approx(2.0, abs=0.06)
    assert interval_scale([]) == 1.0
