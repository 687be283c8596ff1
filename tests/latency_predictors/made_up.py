"""Devices whose latencies are known in closed form."""

from __future__ import annotations

import numpy as np

from latency_predictors.calibration import build_profile
from latency_predictors.kernel_tables import KernelTables
from latency_predictors.measurement import Measurement, current_conditions
from latency_predictors.profile import DeviceProfile
from latency_predictors.subject_names import BASE, option_subject
from search_spaces.options import NONE
from search_spaces.space import SearchSpace

KERNELS = ("conv3x3_macs@8", "attention_macs@8", "num_conv3x3", "traffic_elements")


def measurement(subject: str, median_ms: float) -> Measurement:
    return Measurement(
        subject=subject, num_samples=9, median_ms=median_ms, iqr_ms=0.0, p10_ms=median_ms, p90_ms=median_ms,
        ci95_ms=(median_ms, median_ms), device="d", runtime="r", precision="float32", threads=1, clock="wall",
        num_preempted=0, conditions=current_conditions("1", False),
    )  # fmt: skip


def kernel_tables(space: SearchSpace, seed: int = 0) -> KernelTables:
    """Kernel sums of words: a resolution's width for every R and A, and something random for the words' order."""
    rng = np.random.default_rng(seed)

    def sums(option: str, width: int) -> list[int]:
        if option == NONE:
            return [0, 0, 0, 0]
        num_r, num_a = option.count("R"), option.count("A")
        return [1000 * width * num_r, 300 * width * num_a, 2 * num_r, 7 * width * len(option) + int(rng.integers(99))]

    stages = {
        stage: np.array([sums(option, 1 + column) for option in space.options[stage]], dtype=np.int64)
        for column, stage in enumerate(space.stages)
    }
    return KernelTables(KERNELS, np.array([500, 0, 2, 40]), stages)


def synthetic(space: SearchSpace) -> tuple[DeviceProfile, dict[str, float]]:
    """A device whose latencies are exactly 1.25 * (base + sum of parts) - 0.3 ms."""
    rng = np.random.default_rng(0)
    parts = {
        option_subject(s, o): 0.0 if o == NONE else float(rng.uniform(0.1, 1.0))
        for s in space.stages
        for o in space.options[s]
    }
    nets = list(dict.fromkeys(space.decode(row) for row in space.sample(rng, 40)))[:12]
    measured = {name: measurement(name, ms) for name, ms in parts.items() if ms > 0}
    measured[BASE] = measurement(BASE, 0.2)
    for net in nets:
        total = 0.2 + sum(parts[option_subject(s, o)] for s, o in net.options.items())
        measured[net.id] = measurement(net.id, 1.25 * total - 0.3)
    profile = build_profile(
        space, kernel_tables(space), measured, nets[:6], nets[6:], teacher_key="t", latent_size=8, num_tokens=5
    )
    return profile, parts
