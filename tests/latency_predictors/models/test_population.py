from __future__ import annotations

import numpy as np
import pytest

from latency_predictors.models import Ensemble, Inputs, Nnls, learn_prior
from latency_predictors.models.population import Population
from tests.latency_predictors.models.devices import Devices

NAMES = ("macs@8", "macs@4", "bytes")


def test_the_mean_of_the_devices_is_what_is_expected_before_much_is_measured() -> None:
    shares = np.array([[0.5, 0.1, 0.2, 0.2], [0.3, 0.1, 0.4, 0.2]])
    grouped = np.array([[0.6, 0.2, 0.2], [0.4, 0.4, 0.2]])
    population = Population.of(NAMES, np.array([3.0, 1.0, 2.0]), shares, grouped)
    np.testing.assert_allclose(population.mean, [0.4, 0.1, 0.3, 0.2])
    # The typical network itself, measured once: it tells the speed, and nothing is known of the shares but their mean.
    found = population.solve(np.ones((1, 4)), np.ones(1))
    np.testing.assert_allclose(found, population.mean, rtol=0.01)


def test_a_cost_that_differs_everywhere_differs_in_places_by_their_size() -> None:
    shares = np.full((2, 4), 0.25)
    grouped = np.array([[0.6, 0.2, 0.2], [0.4, 0.4, 0.2]])
    population = Population.of(NAMES, np.array([3.0, 1.0, 2.0]), shares, grouped)
    # By hand: (2 * 0.1^2 + 1 / 9) / 3 for the kernel, three quarters of its share at the first place.
    variance = (2 * 0.1**2 + 1 / 9) / 3
    everywhere = np.array(population.everywhere)
    np.testing.assert_allclose(everywhere[:2, :2], variance * np.outer([0.75, 0.25], [0.75, 0.25]))
    assert everywhere[0, 2] == pytest.approx(0.5 * 0.75 * -0.02 / 3)


def test_many_measurements_outweigh_the_population() -> None:
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.1, 0.4, (5, 4))
    population = Population.of(("a", "b", "c"), np.ones(3), shares, shares)
    assert population.places is None
    design = rng.uniform(0.0, 2.0, (300, 4))
    truth = np.array([0.9, 0.0, 0.05, 0.3])
    found = population.solve(design / (design @ truth)[:, None], np.ones(300))
    np.testing.assert_allclose(found, truth, atol=0.02)
    assert (found >= 0).all()
    held = population.solve(design / (design @ truth)[:, None], np.ones(300), least_share=0.03)
    np.testing.assert_allclose(held, truth, atol=0.02)
    assert (held >= 0.03 * np.array(population.mean) * (1 - 1e-12)).all() and found[1] < 0.03 * population.mean[1]


def test_other_devices_make_few_measurements_go_further() -> None:
    """Devices alike but for a tenth, 4 noisy measurements: what the others cost must help, most of the time."""
    better = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        kernels = rng.uniform(0.2, 2.0, (200, 5))
        costs = np.array([1.0, 0.1, 3.0, 0.3, 1.5, 1.0]) * np.exp(0.1 * rng.standard_normal((7, 6)))
        ms = np.column_stack([kernels, np.ones(200)]) @ costs.T * np.exp(0.03 * rng.standard_normal((200, 7)))
        inputs = Inputs(kernels, ("a", "b", "c", "d", "e"), sources=ms[:, :6])
        prior = learn_prior(inputs, ms[:, :6], np.random.default_rng(0))
        rows = inputs.rows(slice(0, 4))
        scale = prior.scales["places"]
        error = {}
        for name, model in (
            ("learned", Nnls(features="places", scale=scale, population=prior.population)),
            ("alone", Nnls(scale=scale)),
        ):
            predicted = model.fit(rows, ms[:4, 6]).predict(inputs).latency_ms
            error[name] = np.mean(np.abs(predicted / ms[:, 6] - 1))
        better += error["learned"] < error["alone"]
    assert better >= 8


def test_one_corrupt_measurement_hardly_counts() -> None:
    for learned in (False, True):
        clean = Devices(num_networks=120, num_sources=4, seed=3)
        assert clean.inputs.sources is not None
        measured = clean.target_ms[:15].copy()
        measured[4] /= 4.0
        rows = clean.inputs.rows(slice(0, 15))
        prior = learn_prior(clean.inputs, clean.inputs.sources, np.random.default_rng(0))
        scale = prior.scales["kernels"]
        population = prior.population if learned else None
        errors = {}
        for robust in (False, True):
            fitted = Nnls(scale=scale, population=population, robust=robust).fit(rows, measured)
            errors[robust] = np.median(np.abs(fitted.predict(clean.inputs).latency_ms / clean.target_ms - 1))
        assert errors[True] < 0.04 and errors[True] < 0.5 * errors[False]


def test_without_measurements_of_the_sources_the_gaussian_process_stays_a_member() -> None:
    devices = Devices(num_networks=60, num_sources=3, seed=5, noise=0.02)
    assert devices.inputs.sources is not None
    rows, measured = devices.inputs.rows(slice(0, 12)), devices.target_ms[:12]
    learned = learn_prior(devices.inputs, devices.inputs.sources, np.random.default_rng(0))
    assert learned.population is not None
    fitted = Ensemble(prior=learned).fit(rows, measured)
    assert fitted.gp is None and [m.features for m in fitted.additive] == ["places", "sources"]
    unmeasured = np.full_like(devices.inputs.sources, np.nan)
    unlearned = learn_prior(devices.inputs, unmeasured, np.random.default_rng(0))
    assert unlearned.population is None and Ensemble(prior=unlearned).fit(rows, measured).gp is not None
    # Until they can be judged the members stay out.
    assert Ensemble(prior=learned).fit(rows.rows(slice(0, 4)), measured[:4]).additive == ()
