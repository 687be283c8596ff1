"""The Gaussian process against the textbook's formulas, written out in full."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import check_grad

from latency_predictors.models import Ensemble, Gp, Inputs, LatencyPrior, learn_prior, unlearned_prior
from latency_predictors.models.learning import negative_log_likelihood
from latency_predictors.models.prior import CONSTANT_VARIANCE
from search_spaces.errors import UserError
from tests.latency_predictors.models.devices import Devices

SETTING = (0.4, 0.2, 0.05, 0.02, 0.003)


def single(inputs: Inputs, setting: tuple[float, ...] = SETTING) -> LatencyPrior:
    return LatencyPrior.model_validate(unlearned_prior(inputs).model_dump() | {"variances": (setting,)})


def mean_and_covariance(inputs: Inputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The prior of the module's docstring, network by network; scaled on `inputs`, without noise."""
    assert inputs.sources is not None and inputs.structure is not None
    logs = np.log(inputs.sources)
    centred = logs - logs.mean(0)
    mean = centred.mean(1)
    intensities = np.column_stack([inputs.kernels / inputs.kernels.mean(0), np.ones(len(inputs))])
    intensities = intensities / np.exp(mean)[:, None]
    intensities = (intensities - intensities.mean(0)) / intensities.std(0)
    slope, deviation, rates, structure, _ = SETTING
    total = np.empty((len(inputs), len(inputs)))
    for i in range(len(inputs)):
        for j in range(len(inputs)):
            total[i, j] = (
                CONSTANT_VARIANCE
                + slope * mean[i] * mean[j]
                + deviation * np.mean((centred[i] - mean[i]) * (centred[j] - mean[j]))
                + rates * np.mean(intensities[i] * intensities[j])
                + structure * np.exp(-4 * np.mean(inputs.structure[i] != inputs.structure[j]))
            )
    return mean, total


def test_posterior_is_the_conditional_of_the_joint_normal() -> None:
    noisy = Devices(num_networks=30, num_sources=4, seed=6, noise=0.05)
    mean, total = mean_and_covariance(noisy.inputs)
    known, asked = np.arange(10), np.arange(10, 30)
    fitted = Gp(prior=single(noisy.inputs)).fit(noisy.inputs.rows(known), noisy.target_ms[known])
    inverse = np.linalg.inv(total[:10, :10] + SETTING[4] * np.eye(10))
    # The constant's mean is the average residual; its variance is so wide that the start hardly matters.
    residual = np.log(noisy.target_ms[:10]) - mean[:10]
    expected = mean[10:] + residual.mean() + total[10:, :10] @ inverse @ (residual - residual.mean())
    variance = np.diag(total)[10:] - np.sum((total[10:, :10] @ inverse) * total[10:, :10], axis=1) + SETTING[4]
    log_ms, spread = fitted.posterior(noisy.inputs.rows(asked))
    np.testing.assert_allclose(log_ms, expected, atol=1e-7)
    np.testing.assert_allclose(spread, variance, rtol=1e-6)


def test_gradient_of_the_marginal_likelihood() -> None:
    noisy = Devices(num_networks=20, num_sources=4, seed=7, noise=0.05)
    features = single(noisy.inputs).features(noisy.inputs)
    parts, residual = features.parts(features), np.random.default_rng(0).standard_normal(20)
    error = check_grad(
        lambda x: negative_log_likelihood(x, parts, residual)[0],
        lambda x: negative_log_likelihood(x, parts, residual)[1],
        np.log(np.array(SETTING)),
    )
    assert error < 1e-3 * np.linalg.norm(negative_log_likelihood(np.log(np.array(SETTING)), parts, residual)[1])


def test_leave_one_out_errors_are_those_of_fits_without_the_row() -> None:
    noisy = Devices(num_networks=12, num_sources=3, seed=8, noise=0.1)
    model = Gp(prior=single(noisy.inputs))
    fitted = model.fit(noisy.inputs, noisy.target_ms)
    for row in range(12):
        rest = np.delete(np.arange(12), row)
        log_ms, variance = model.fit(noisy.inputs.rows(rest), noisy.target_ms[rest]).posterior(noisy.inputs.rows([row]))
        assert fitted.loo_log_errors[row] == pytest.approx(log_ms[0] - np.log(noisy.target_ms[row]), abs=1e-4)
        assert fitted.loo_log_std[row] == pytest.approx(np.sqrt(variance[0]), rel=1e-6)


def test_one_anchor_scales_the_average_source_device(devices: Devices) -> None:
    """n = 1: one ratio, and nothing else that the data could support."""
    assert devices.inputs.sources is not None
    average = np.exp(np.log(devices.inputs.sources).mean(1))
    prior = single(devices.inputs, (1e-6, 1e-6, 1e-6, 1e-6, 1e-6))
    for model in (Gp(prior=prior), Ensemble(prior=prior)):
        predicted = model.fit(devices.inputs.rows([7]), devices.target_ms[[7]]).predict(devices.inputs).latency_ms
        np.testing.assert_allclose(predicted, average / average[7] * devices.target_ms[7], rtol=1e-3)


def test_without_sources_one_anchor_scales_the_roofline(devices: Devices) -> None:
    cost = np.array([0.1, 0.2, 0.3])
    roofline = devices.analytic.kernels @ cost
    prior = unlearned_prior(devices.analytic, cost)
    prior = LatencyPrior.model_validate(prior.model_dump() | {"variances": ((1e-6,) * 5,)})
    row = int(np.argmax(roofline))
    predicted = Gp(prior=prior).fit(devices.analytic.rows([row]), [5.0]).predict(devices.analytic).latency_ms
    some = roofline > 0
    np.testing.assert_allclose(predicted[some], (roofline / roofline[row] * 5.0)[some], rtol=1e-3)


def test_the_likelier_setting_gets_the_weight() -> None:
    """A very noisy device among two settings, of which one knows no noise."""
    noisy = Devices(num_networks=40, num_sources=3, seed=9, noise=0.3)
    quiet_loud = ((0.1, 0.1, 0.1, 0.01, 1e-6), (0.1, 0.1, 0.1, 0.01, 0.09))
    prior = LatencyPrior.model_validate(unlearned_prior(noisy.inputs).model_dump() | {"variances": quiet_loud})
    fitted = Gp(prior=prior).fit(noisy.inputs, noisy.target_ms)
    assert fitted.prior.variances == quiet_loud[1:] and fitted.setting_weights == (1.0,)


def test_learned_noise_is_the_source_devices_noise() -> None:
    noise = 0.08
    noisy = Devices(num_networks=400, num_sources=4, seed=10, noise=noise)
    quiet = Devices(num_networks=400, num_sources=4, seed=10)
    assert noisy.inputs.sources is not None
    prior = learn_prior(quiet.inputs, noisy.inputs.sources, np.random.default_rng(0))
    learned = np.sqrt(np.array(prior.variances)[:, 4])
    assert len(learned) == 8
    # The middle 80 % of latencies cuts no noise off here: the networks differ by much more than by noise.
    assert np.all((0.75 * noise < learned) & (learned < 1.25 * noise))


def test_source_devices_with_too_few_measurements_teach_nothing(devices: Devices) -> None:
    empty = np.full((len(devices.inputs), 5), np.nan)
    prior = learn_prior(devices.inputs, empty, np.random.default_rng(0))
    assert prior == unlearned_prior(devices.inputs)
    with pytest.raises(UserError, match=r"shape \(120, 4\), needed is \(120, 5\)"):
        learn_prior(devices.inputs, empty[:, 1:], np.random.default_rng(0))
