"""Timings that no device can have are remarked, those of any device whose latency is a sum of kernel costs are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_predictors.kernel_tables import KernelTables
from latency_predictors.plausibility import implausible
from latency_predictors.subject_names import BASE, option_subject
from latency_predictors.training import Training
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from tests.latency_predictors.made_up import kernel_tables, measurement

SPACE: SearchSpace = load_space("nanosd")
KERNELS: KernelTables = kernel_tables(SPACE)
SUMS = {BASE: KERNELS.base} | {
    option_subject(stage, option): KERNELS.stages[stage][row]
    for stage in SPACE.stages
    for row, option in enumerate(SPACE.options[stage])
    if option != "none"
}


def timings(cost_ms: np.ndarray, num_networks: int, seed: int = 0, parts_factor: float = 1.0) -> Training:
    matrix = np.unique(SPACE.sample(np.random.default_rng(seed), num_networks), axis=0)
    networks = KERNELS.of_candidates(SPACE, matrix) @ cost_ms
    return Training(
        parts={name: measurement(name, parts_factor * float(sums @ cost_ms)) for name, sums in SUMS.items()},
        networks={SPACE.decode(r).id: measurement("n", float(ms)) for r, ms in zip(matrix, networks, strict=True)},
    )


@settings(max_examples=25)
@given(
    st.lists(st.floats(1e-5, 1e-1), min_size=len(KERNELS.kernel_names), max_size=len(KERNELS.kernel_names)),
    st.integers(1, 30),
    st.integers(0, 1000),
)
def test_what_a_sum_of_costs_takes_is_never_remarked(costs: list[float], num: int, seed: int) -> None:
    assert implausible(SPACE, KERNELS, timings(np.array(costs), num, seed)) == ()


def test_each_thing_that_cannot_be_is_one_line() -> None:
    cost = np.array([2e-4, 3e-4, 0.05, 1e-3])
    good = timings(cost, 12)
    turned = {n: measurement("n", 1e3 / t.latency_ms) for n, t in good.networks.items()}
    (line,) = implausible(SPACE, KERNELS, Training({}, turned))
    assert "pairs of whole U-Nets the larger is the faster one" in line
    alike = {n: measurement("n", 7.0) for n in good.networks}
    (line,) = implausible(SPACE, KERNELS, Training({}, alike))
    assert f"all {len(alike)} whole U-Nets take 7 ms" in line
    parts = {n: measurement(n, 7.0) for n in good.parts}
    (line,) = implausible(SPACE, KERNELS, Training(parts, {}))
    assert f"all {len(parts)} stage options take 7 ms" in line
    parts = {n: measurement(n, 1e3 / t.latency_ms) for n, t in good.parts.items()}
    (line,) = implausible(SPACE, KERNELS, Training(parts, {}))
    assert "pairs of stage options the larger is the faster one" in line


@pytest.mark.parametrize(("factor", "is_said"), [(0.45, True), (0.55, False), (1.9, False), (2.1, True)])
def test_parts_are_compared_with_their_networks(factor: float, is_said: bool) -> None:
    known = timings(np.array([2e-4, 3e-4, 0.05, 1e-3]), 5, parts_factor=factor)
    said = implausible(SPACE, KERNELS, known)
    assert len(said) == is_said and all("a factor of" in line for line in said)
    # Without one of the parts a sum that is too small says nothing, one that is too large says enough.
    fewer = {name: timing for name, timing in known.parts.items() if name != BASE}
    assert len(implausible(SPACE, KERNELS, Training(fewer, known.networks))) == (factor > 2.05)
