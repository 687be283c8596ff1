from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from latency_predictors.models import Inputs, Nnls
from latency_predictors.models.nnls import feature_columns
from search_spaces.errors import UserError
from tests.latency_predictors.models.devices import Devices


def test_true_rates_are_found_where_there_is_no_noise(devices: Devices) -> None:
    fitted = Nnls(ridge=1e-12).fit(devices.analytic, devices.target_ms)
    np.testing.assert_allclose(fitted.coefficients, devices.target_cost, rtol=1e-4)
    np.testing.assert_allclose(fitted.predict(devices.analytic).latency_ms, devices.target_ms, rtol=1e-5)


@pytest.mark.parametrize("least_share", [0.0, 0.03, 0.5])
def test_solution_is_that_of_another_solver(least_share: float) -> None:
    noisy = Devices(num_networks=12, num_sources=4, seed=1, noise=0.2)
    model = Nnls(features="kernels+sources", ridge=1e-9, least_share=least_share)
    fitted = model.fit(noisy.inputs, noisy.target_ms)
    columns = np.column_stack([feature_columns(noisy.inputs, "kernels+sources"), np.ones(12)])
    # Of the median latency at the columns' typical values, shared by them equally.
    least = least_share * np.median(noisy.target_ms) / columns.mean(0) / columns.shape[1]
    other = lsq_linear(columns / noisy.target_ms[:, None], np.ones(12), bounds=(least, np.inf), tol=1e-14)
    own = np.sum((columns @ np.array(fitted.coefficients) / noisy.target_ms - 1) ** 2)
    assert own == pytest.approx(2 * other.cost, rel=1e-4)
    assert (np.array(fitted.coefficients) >= least * (1 - 1e-12)).all()


@pytest.mark.parametrize("robust", [False, True])
def test_a_network_without_the_kernel_that_explains_all_measured_ones_still_takes_time(robust: bool) -> None:
    attention = np.linspace(5.0, 15.0, 10)
    other = 1.0 + 0.1 * (-1.0) ** np.arange(10)
    inputs = Inputs(np.column_stack([attention, other]), ("attention_macs", "conv_macs"))
    without = Inputs(np.array([[0.0, 1.0]]), inputs.kernel_names)
    # Attention alone explains what was measured, to the last digit.
    measured = 2.0 * attention
    model = Nnls(scale=(10.0, 1.0), robust=robust)
    free = model.model_copy(update={"least_share": 0.0, "ridge": 1e-12}).fit(inputs, measured).predict(without)
    assert free.latency_ms[0] < 1e-6
    fitted = model.fit(inputs, measured)
    # Convolution's least share and the constant's: a third each of 3 % of the median, 20 ms.
    assert fitted.predict(without).latency_ms[0] >= 2 / 3 * 0.03 * 20.0 * (1 - 1e-12)
    np.testing.assert_allclose(fitted.predict(inputs).latency_ms, measured, rtol=0.03)


def test_leave_one_out_errors_are_those_of_fits_without_the_row() -> None:
    noisy = Devices(num_networks=8, num_sources=0, seed=2, noise=0.1)
    model = Nnls(scale=tuple(noisy.inputs.kernels.mean(0)))
    errors = model.fit(noisy.inputs, noisy.target_ms).loo_log_errors
    for row in range(8):
        rest = np.delete(np.arange(8), row)
        alone = model.fit(noisy.inputs.rows(rest), noisy.target_ms[rest]).predict(noisy.inputs.rows([row]))
        assert errors[row] == pytest.approx(np.log(alone.latency_ms[0] / noisy.target_ms[row]))


def test_a_kernel_never_measured_is_flagged_and_not_free_where_its_typical_size_is_known() -> None:
    measured = Inputs(np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), ("conv_macs", "norm"))
    asked = Inputs(np.array([[2.0, 0.0], [2.0, 1.0]]), ("conv_macs", "norm"))
    unscaled = Nnls().fit(measured, [1.0, 2.0, 3.0]).predict(asked)
    assert unscaled.extrapolates.tolist() == [False, True]
    scaled = Nnls(scale=(2.0, 1.0)).fit(measured, [1.0, 2.0, 3.0]).predict(asked)
    # The ridge leaves it its equal share: a third of the median latency of 2 ms.
    assert scaled.latency_ms[1] - scaled.latency_ms[0] == pytest.approx(2 / 3)


def test_macs_are_the_kernels_so_named() -> None:
    inputs = Inputs(np.array([[1.0, 5.0, 2.0]]), ("pointwise_macs", "bytes", "depthwise_macs"))
    assert feature_columns(inputs, "macs").tolist() == [[3.0]]
    with pytest.raises(UserError, match="ends in _macs"):
        Nnls(features="macs").fit(Inputs(np.ones((2, 1)), ("bytes",)), [1.0, 2.0])
