from __future__ import annotations

import pytest

from tests.latency_predictors.models.devices import Devices


@pytest.fixture(scope="session")
def devices() -> Devices:
    """120 networks of 5 decisions on 6 made-up devices."""
    return Devices(num_networks=120, num_sources=5, seed=0)
