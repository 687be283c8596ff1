"""Facts of a whole search space, worth a file because costs are known for every candidate before the search."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

#: Kendall's tau of more candidates than this is taken on an even sample: it settles long before.
MAX_TAU = 50_000


def space_facts(num_candidates: int, latency_ms: ArrayLike, num_params: ArrayLike) -> dict[str, Any]:
    """The content of a run's `space.json`.

    Args:
        num_candidates: size of the space.
        latency_ms: predicted latency (N,) of all candidates, or of a sample of a space too large to hold.
        num_params: parameters (N,) of the same candidates.

    Returns:
        A JSON-ready mapping; see `nas.run_data.files`.
    """
    from scipy.stats import kendalltau

    latency, params = np.asarray(latency_ms, dtype=np.float64), np.asarray(num_params, dtype=np.float64)
    step = -(-len(latency) // MAX_TAU)
    tau = float(kendalltau(params[::step], latency[::step]).statistic) if len(latency) > 1 else float("nan")
    return {
        "format_version": 1,
        "num_candidates": num_candidates,
        "latency_ms": [float(latency.min()), float(latency.max())],
        "num_params": [int(params.min()), int(params.max())],
        "params_latency_tau": None if np.isnan(tau) else tau,
    }
