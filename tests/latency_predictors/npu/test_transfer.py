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
    noise = transfer._CHOICE_SD**2

    def left(row):
        """Share of the variance at the queries, by the formula of conditioning, averaged over the designs."""
        shares = []
        for sd in transfer._CHOICE_CONTRAST_SDS:
            design = transfer._contrast_model(sources, transfer._CHOICE_CLASS, sd, 1.0).design
            joint = design @ design.T
            known = joint[row, row] + noise
            after = joint[np.ix_(queries, queries)] - np.outer(joint[queries, row], joint[row, queries]) / known
            shares.append(np.trace(after) / np.trace(joint[np.ix_(queries, queries)]))
        return np.mean(shares)

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


def test_a_source_without_the_networks_asked_for_tells_their_level_only():
    rng = np.random.default_rng(3)
    log_ms = rng.uniform(0, 5, 40)[:, None] + rng.normal(0, 0.1, (40, 4))
    log_ms[30:, 3] = np.nan
    queries = np.arange(30, 40)
    paths = ["dlc"] * 40
    asked, unasked = Sources.of(log_ms, paths, queries), Sources.of(log_ms, paths)
    assert asked.contrasts.shape == (40, 3)
    assert unasked.contrasts.shape == (40, 4)
    np.testing.assert_array_equal(asked.contrasts, unasked.contrasts[:, :3])
    np.testing.assert_array_equal(asked.level, unasked.level)


def test_a_device_slow_at_what_is_compiled_ahead_of_time_is_told_from_few(made):
    sources, target = made
    paths = ["qnn_dlc", "qnn_context_binary"] * (NUM_ROWS // 2)
    both = Sources.of(sources.level[:, None] + sources.contrasts, paths)
    slow = target + 0.25 * both.ahead[:, 0]
    measured = np.arange(0, NUM_ROWS, 3)  # of both kinds
    rest = np.setdiff1d(np.arange(NUM_ROWS), measured)
    found = predict(both, measured, slow[measured]).mean - slow
    unaware = predict(
        Sources.of(sources.level[:, None] + sources.contrasts, ["dlc"] * NUM_ROWS), measured, slow[measured]
    )
    assert np.abs(found[rest]).mean() < 0.05
    assert np.abs(found[rest]).mean() < np.abs(unaware.mean - slow)[rest].mean() / 2


def test_the_scale_covers_nine_new_devices_of_ten_with_an_error_shared_by_a_device():
    """Simulated: seven devices give the scale, an eighth is covered."""
    rng = np.random.default_rng(2)
    covered = []
    for _ in range(2000):
        devices = rng.normal(0, 2, (8, 1)) + rng.normal(0, 1, (8, 20))
        scale = interval_scale(list(devices[:7]))
        covered.append(np.mean(np.abs(devices[7]) <= 1.645 * scale))
    assert 0.88 < np.mean(covered) < 0.95  # somewhat above 0.9: see interval_scale


def test_the_scale_is_one_where_deviations_are_standard_normal_and_where_nothing_is_known():
    rng = np.random.default_rng(2)
    assert interval_scale(list(rng.normal(size=(200, 50)))) == pytest.approx(1.0, abs=0.03)
    assert interval_scale([]) == 1.0
    assert interval_scale([np.ones(5)]) == 1.0
