from __future__ import annotations

import numpy as np
import pytest

from latency_predictors.models import Ensemble, Inputs, learn_prior, roofline, unlearned_prior
from search_spaces.errors import UserError
from tests.latency_predictors.models.devices import Devices


def test_members_share_by_their_leave_one_out_errors(devices: Devices) -> None:
    rows = np.arange(12)
    noisy = devices.target_ms[rows] * np.exp(0.1 * np.random.default_rng(0).standard_normal(12))
    fitted = Ensemble(prior=unlearned_prior(devices.inputs)).fit(devices.inputs.rows(rows), noisy)
    members = (*fitted.additive, fitted.gp)
    assert [m.features for m in fitted.additive] == ["kernels", "sources"]
    errors = np.array([np.mean(np.square(m.loo_log_errors)) for m in members])
    shares = np.array([2, 1, 1]) / (errors + 1e-6) ** 2
    np.testing.assert_allclose(fitted.weights, shares / shares.sum())
    logs = [np.log(m.predict(devices.inputs).latency_ms) for m in members]
    expected = np.exp(np.average(logs, axis=0, weights=fitted.weights))
    np.testing.assert_allclose(fitted.predict(devices.inputs).latency_ms, expected)


@pytest.mark.parametrize(("num", "most"), [(6, 0.08), (12, 0.02)])
def test_noise_free_sums_are_learned_from_few(num: int, most: float) -> None:
    """Median absolute error over ten devices: the truth is a sum, which ten measurements are enough to find."""
    errors = []
    for seed in range(10):
        truth = Devices(num_networks=100, num_sources=0, seed=seed)
        prior = unlearned_prior(truth.inputs)
        predicted = (
            Ensemble(prior=prior).fit(truth.inputs.rows(np.arange(num)), truth.target_ms[:num]).predict(truth.inputs)
        )
        errors.append(np.median(np.abs(predicted.latency_ms / truth.target_ms - 1)))
    assert np.mean(errors) < most


def test_ninety_per_cent_intervals_cover_ninety_per_cent() -> None:
    covered = []
    for seed in range(10):
        noisy = Devices(num_networks=220, num_sources=4, seed=seed, noise=0.1)
        quiet = Devices(num_networks=220, num_sources=4, seed=seed)
        assert noisy.inputs.sources is not None
        prior = learn_prior(quiet.inputs, noisy.inputs.sources, np.random.default_rng(seed))
        fitted = Ensemble(prior=prior).fit(quiet.inputs.rows(np.arange(10)), noisy.target_ms[:10])
        predicted = fitted.predict(quiet.inputs.rows(np.arange(20, 220)))
        truth = noisy.target_ms[20:]
        covered.append(np.mean((predicted.low_ms <= truth) & (truth <= predicted.high_ms)))
    assert 0.85 < np.mean(covered) < 0.97


def test_networks_without_digits_are_predicted_from_their_sums(devices: Devices) -> None:
    given = Inputs(devices.inputs.kernels, devices.inputs.kernel_names, sources=devices.inputs.sources)
    fitted = Ensemble(prior=unlearned_prior(given)).fit(given.rows(slice(0, 20)), devices.target_ms[:20])
    np.testing.assert_allclose(fitted.predict(given).latency_ms, devices.target_ms, rtol=0.05)


def test_roofline_is_the_sum_over_rates(devices: Devices) -> None:
    some = devices.analytic.rows(np.flatnonzero(devices.analytic.kernels[:, 2] > 0))
    rates = {"conv_macs": 10.0, "pool_elements": float("inf"), "launches": 4.0}
    predicted = roofline(some, rates)
    np.testing.assert_allclose(predicted.latency_ms, some.kernels[:, 0] / 10 + some.kernels[:, 2] / 4)
    assert predicted.extrapolates.all() and (predicted.low_ms < predicted.latency_ms).all()


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"conv_macs": 1.0}, "none for kernel 'pool_elements'"),
        ({"conv_macs": 1.0, "pool_elements": 1.0, "launches": 1.0, "norms": 1.0}, "'norms' is no kernel"),
        ({"conv_macs": 0.0, "pool_elements": 1.0, "launches": 1.0}, "conv_macs is 0.0; rates are above 0"),
        (dict.fromkeys(("conv_macs", "pool_elements", "launches"), float("inf")), "needs a finite rate"),
    ],
)
def test_nothing_unknown_is_free(devices: Devices, rates: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        roofline(devices.analytic, rates)
