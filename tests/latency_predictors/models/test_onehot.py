from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import OneHotEncoder

from latency_predictors.models import Inputs, OneHotRidge
from search_spaces.errors import UserError
from tests.latency_predictors.models.devices import Devices


def test_equals_scikit_learns_ridge() -> None:
    noisy = Devices(num_networks=40, num_sources=0, seed=3, noise=0.1)
    assert noisy.inputs.structure is not None
    columns = OneHotEncoder(categories=[range(4)] * 5, sparse_output=False).fit_transform(noisy.inputs.structure)
    other = Ridge(alpha=2.0).fit(columns, np.log(noisy.target_ms))
    predicted = OneHotRidge(num_options=4, ridge=(2.0,)).fit(noisy.inputs, noisy.target_ms).predict(noisy.inputs)
    np.testing.assert_allclose(np.log(predicted.latency_ms), other.predict(columns), rtol=1e-9)


def test_leave_one_out_errors_are_those_of_fits_without_the_row() -> None:
    noisy = Devices(num_networks=15, num_sources=0, seed=4, noise=0.1)
    model = OneHotRidge(num_options=4)
    errors = model.fit(noisy.inputs, noisy.target_ms).loo_log_errors
    for row in range(15):
        rest = np.delete(np.arange(15), row)
        alone = model.fit(noisy.inputs.rows(rest), noisy.target_ms[rest]).predict(noisy.inputs.rows([row]))
        assert errors[row] == pytest.approx(np.log(alone.latency_ms[0] / noisy.target_ms[row]))


def test_pairs_learn_what_sums_cannot() -> None:
    structure = np.array([[a, b] for a in range(2) for b in range(2)] * 10)
    latency_ms = np.exp((structure[:, 0] == structure[:, 1]).astype(float))  # an exclusive or
    inputs = Inputs(np.ones((40, 1)), ("launches",), structure)
    sums, pairs = (
        OneHotRidge(num_options=2, pairs=p, ridge=(1e-6,)).fit(inputs, latency_ms).predict(inputs)
        for p in (False, True)
    )
    np.testing.assert_allclose(pairs.latency_ms, latency_ms, rtol=1e-4)
    np.testing.assert_allclose(sums.latency_ms, np.exp(0.5), rtol=1e-4)


def test_the_penalty_is_chosen_by_what_predicts() -> None:
    """Pure noise calls for the largest penalty, an exact table for the smallest."""
    quiet, noise = Devices(80, 0, seed=5), np.exp(np.random.default_rng(0).standard_normal(80))
    model = OneHotRidge(num_options=4, pairs=True, ridge=(1e-4, 1e4))
    flat, steep = (
        np.ptp(model.fit(quiet.inputs, y).predict(quiet.inputs).latency_ms) for y in (noise, quiet.target_ms)
    )
    assert flat < 0.3 and steep > 0.9 * np.ptp(quiet.target_ms)


def test_a_digit_too_large_is_refused() -> None:
    with pytest.raises(UserError, match="digits 0 to 3; legal are 0 to 2"):
        OneHotRidge(num_options=3).fit(Inputs(np.ones((2, 1)), ("launches",), np.array([[0], [3]])), [1.0, 2.0])
