"""Made-up devices whose latency is a sum of kernel sums over rates, plus noise: a truth to predict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_predictors.models import Inputs

KERNELS = ("conv_macs", "pool_elements", "launches")
_COST = np.array([[9.0, 2.0, 1.0], [4.0, 1.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 0.0]])


class Devices:
    """`inputs` with source latencies, `target_ms` (N,) of the device to predict, `target_cost` (4,) its true rates."""

    def __init__(self, num_networks: int, num_sources: int, seed: int, noise: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        structure = rng.integers(0, len(_COST), (num_networks, 5))
        kernels = _COST[structure].sum(1)
        costs = np.exp(rng.normal(0, 0.5, (num_sources + 1, 4))) * [1.0, 1.0, 2.0, 3.0]
        latency_ms: NDArray[np.float64] = np.column_stack([kernels, np.ones(num_networks)]) @ costs.T
        latency_ms *= np.exp(noise * rng.standard_normal(latency_ms.shape))
        self.target_cost, self.target_ms = costs[-1], latency_ms[:, -1]
        self.inputs = Inputs(kernels, KERNELS, structure, latency_ms[:, :-1] if num_sources else None)
        self.analytic = Inputs(kernels, KERNELS, structure)
