"""What every latency predictor must do. A new one is added to MODELS and passes, or it is no predictor."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_predictors.models import (
    Additive,
    Ensemble,
    FittedModel,
    Gp,
    Inputs,
    Model,
    Nnls,
    OneHotRidge,
    from_json,
    learn_prior,
    unlearned_prior,
)
from search_spaces.errors import UserError
from tests.latency_predictors.models.devices import Devices

DEVICES = Devices(num_networks=60, num_sources=3, seed=20, noise=0.05)
assert DEVICES.inputs.sources is not None
LEARNED = learn_prior(DEVICES.inputs, DEVICES.inputs.sources, np.random.default_rng(0))
MODELS: dict[str, Callable[[], Model]] = {
    "additive": Additive,
    "ensemble": lambda: Ensemble(prior=unlearned_prior(DEVICES.inputs)),
    "ensemble learned": lambda: Ensemble(prior=LEARNED),
    "gp": lambda: Gp(prior=unlearned_prior(DEVICES.inputs)),
    "nnls kernels": Nnls,
    "nnls robust": lambda: Nnls(robust=True),
    "nnls population": lambda: Nnls(scale=LEARNED.scales["kernels"], population=LEARNED.population),
    "nnls sources": lambda: Nnls(features="sources"),
    "nnls both": lambda: Nnls(features="kernels+sources"),
    "nnls macs": lambda: Nnls(features="macs"),
    "one-hot": lambda: OneHotRidge(num_options=4),
    "one-hot pairs": lambda: OneHotRidge(num_options=4, pairs=True, ridge=(0.1, 1.0, 10.0)),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def fit(make: Callable[[], Model], num: int = 15) -> FittedModel:
    return make().fit(DEVICES.inputs.rows(slice(0, num)), DEVICES.target_ms[:num])


@every_model
@pytest.mark.parametrize("num", [1, 2, 3, 15])
def test_any_number_of_measurements_gives_intervals_around_positive_latencies(
    make: Callable[[], Model], num: int
) -> None:
    predicted = fit(make, num).predict(DEVICES.inputs)
    for values in (predicted.latency_ms, predicted.low_ms, predicted.high_ms, predicted.extrapolates):
        assert values.shape == (60,)
    assert (predicted.low_ms > 0).all() and np.isfinite(predicted.high_ms).all()
    assert (predicted.low_ms < predicted.latency_ms).all() and (predicted.latency_ms < predicted.high_ms).all()


@every_model
def test_json_reads_back_to_exactly_the_same(make: Callable[[], Model]) -> None:
    fitted = fit(make)
    again = from_json(fitted.to_json())
    assert again == fitted and type(again) is type(fitted)
    ours, theirs = fitted.predict(DEVICES.inputs), again.predict(DEVICES.inputs)
    for name in ("latency_ms", "low_ms", "high_ms", "extrapolates"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


@every_model
def test_a_network_is_predicted_alike_alone_and_among_others(make: Callable[[], Model]) -> None:
    fitted = fit(make)
    together = fitted.predict(DEVICES.inputs)
    alone = fitted.predict(DEVICES.inputs.rows([41]))
    assert alone.latency_ms[0] == pytest.approx(together.latency_ms[41], rel=1e-9)
    assert alone.high_ms[0] == pytest.approx(together.high_ms[41], rel=1e-6)


@every_model
def test_unit_of_time_does_not_matter(make: Callable[[], Model]) -> None:
    rows = DEVICES.inputs.rows(slice(0, 15))
    slow = make().fit(rows, 1000.0 * DEVICES.target_ms[:15]).predict(DEVICES.inputs)
    np.testing.assert_allclose(slow.latency_ms, 1000.0 * fit(make).predict(DEVICES.inputs).latency_ms, rtol=1e-6)


@every_model
def test_far_from_every_measurement_extrapolates(make: Callable[[], Model]) -> None:
    far = DEVICES.inputs.rows(slice(0, 2))
    far = Inputs(far.kernels * [[1.0], [10.0]], far.kernel_names, far.structure, far.sources)
    assert fit(make).predict(far).extrapolates.tolist() == [False, True]


@every_model
@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_latencies_are_refused_by_position(make: Callable[[], Model], wrong: float) -> None:
    latency_ms = DEVICES.target_ms[:5].copy()
    latency_ms[3] = wrong
    with pytest.raises(UserError, match=r"latency_ms: entry 3 is .* ms"):
        make().fit(DEVICES.inputs.rows(slice(0, 5)), latency_ms)


@every_model
def test_other_inputs_than_those_of_the_fit_are_refused(make: Callable[[], Model]) -> None:
    fitted, rows = fit(make), DEVICES.inputs.rows(slice(0, 3))
    with pytest.raises(UserError, match="conv_macs, pool_elements, launches"):
        fitted.predict(Inputs(rows.kernels, ("a", "b", "c"), rows.structure, rows.sources))
    with pytest.raises(UserError, match="0 source devices given, this model was fitted with 3"):
        fitted.predict(Inputs(rows.kernels, rows.kernel_names, rows.structure))


@settings(max_examples=50)
@given(
    text=st.text()
    | st.recursive(st.none() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_text_that_is_no_fitted_model_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError, match=r"^fitted model: ") as caught:
        from_json(text)
    assert "\n" not in str(caught.value)


@every_model
def test_a_fitted_model_with_a_field_missing_is_refused(make: Callable[[], Model]) -> None:
    content = json.loads(fit(make).to_json())
    content.pop("widest_factor", None)  # came later: profiles of ensembles that lack it are still read
    for field in content:
        damaged = {name: value for name, value in content.items() if name != field}
        with pytest.raises(UserError, match="fitted model: "):
            from_json(json.dumps(damaged))


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        (np.ones((3, 2)), r"shape \(3, 2\), needed is \(networks, 1\)"),
        (np.array([[1.0], [-1.0]]), "launches of row 1 is -1.0"),
        (np.array([[float("nan")]]), "launches of row 0 is nan"),
    ],
)
def test_impossible_kernel_sums_are_refused(kernels: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Inputs(kernels, ("launches",))
