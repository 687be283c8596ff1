from __future__ import annotations

import numpy as np
import pytest

from latency_predictors.models import propose, unlearned_prior
from latency_predictors.models.prior import covariance
from search_spaces.errors import UserError
from tests.latency_predictors.models.devices import Devices


@pytest.mark.parametrize("measured", [[], [3], [5, 0, 11]])
def test_every_choice_has_the_largest_determinant(measured: list[int]) -> None:
    devices = Devices(num_networks=25, num_sources=3, seed=11)
    prior = unlearned_prior(devices.inputs)
    features = prior.features(devices.inputs)
    total = covariance(np.median(np.array(prior.variances), axis=0), features.parts(features))
    have = list(measured)
    for chosen in propose(prior, devices.inputs, measured, 4):
        left = [row for row in range(25) if row not in have]
        volumes = {row: np.linalg.slogdet(total[np.ix_([*have, row], [*have, row])])[1] for row in left}
        assert volumes[chosen] == pytest.approx(max(volumes.values()), abs=1e-9)
        have.append(chosen)
    assert len(set(have)) == len(have)


def test_all_can_be_asked_for_and_no_more() -> None:
    devices = Devices(num_networks=6, num_sources=0, seed=12)
    prior = unlearned_prior(devices.inputs)
    assert sorted(propose(prior, devices.inputs, [2], 5)) == [0, 1, 3, 4, 5]
    assert propose(prior, devices.inputs, [2], 0) == []
    with pytest.raises(UserError, match="6 candidates asked for, 5 are not measured"):
        propose(prior, devices.inputs, [2], 6)
    with pytest.raises(UserError, match="row 6 of 6"):
        propose(prior, devices.inputs, [6], 1)
