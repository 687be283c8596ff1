from __future__ import annotations

import numpy as np
import pytest

from latency_predictors.models import propose, propose_for, unlearned_prior
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


@pytest.mark.parametrize("measured", [[], [3], [5, 0, 11]])
def test_every_choice_leaves_the_targets_the_least_variance(measured: list[int]) -> None:
    devices = Devices(num_networks=40, num_sources=0, seed=13)
    offered, wanted = devices.inputs.rows(slice(0, 15)), devices.inputs.rows(slice(15, 40))
    prior = unlearned_prior(devices.inputs)
    variances = np.median(np.array(prior.variances), axis=0)
    features = prior.features(devices.inputs)
    noisy = covariance(variances, features.parts(features))
    without_noise = noisy - variances[4] * np.eye(40)

    def left_over(rows: list[int]) -> float:
        """Mean posterior variance of the targets, from the dense formula."""
        cross = without_noise[15:, rows]
        return float(
            np.mean(np.diag(without_noise)[15:] - np.sum(cross @ np.linalg.inv(noisy[np.ix_(rows, rows)]) * cross, 1))
        )

    have = list(measured)
    for chosen in propose_for(prior, wanted, offered, measured, 4):
        each = {row: left_over([*have, row]) for row in range(15) if row not in have}
        assert each[chosen] == pytest.approx(min(each.values()), rel=1e-6)
        have.append(chosen)
    assert len(set(have)) == len(have)
    with pytest.raises(UserError, match="16 candidates asked for, 15 are not measured"):
        propose_for(prior, wanted, offered, [], 16)
