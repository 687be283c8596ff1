from __future__ import annotations

import numpy as np
import pytest

from latency_predictors.manifest import drift_of
from latency_predictors.measurement import Recording, current_conditions

CONDITIONS = current_conditions("1", False)


def reference(levels: list[float]) -> list[Recording]:
    """One pass a level, given in reverse: the order of passes is that of their ids."""
    return [
        Recording(
            subject="reference",
            pass_id=i,
            device="d",
            runtime="r",
            precision="float32",
            threads=1,
            wall_ms=(level, level),
            cpu_ms=(level, level),
            conditions=CONDITIONS,
        )
        for i, level in reversed(list(enumerate(levels)))
    ]


def test_a_step_is_drift() -> None:
    drift = drift_of(reference([1.0] * 20 + [1.2] * 20), subjects_per_pass=10)
    assert drift is not None
    assert drift.drift_pct == pytest.approx(100 * 0.2 / 1.1)
    assert drift.noise_pct == 0.0
    assert drift.warning is not None and "takes it out" in drift.warning


def test_too_few_subjects_cannot_correct_it() -> None:
    drift = drift_of(reference([1.0] * 20 + [1.2] * 20), subjects_per_pass=3)
    assert drift is not None and drift.warning is not None
    assert "cannot correct" in drift.warning and "\n" not in drift.warning


def test_noise_without_drift_gives_no_warning() -> None:
    rng = np.random.default_rng(0)
    warned = 0
    for _ in range(100):
        drift = drift_of(reference(list(rng.lognormal(0.0, 0.1, 30))), subjects_per_pass=10)
        assert drift is not None
        warned += drift.warning is not None
    assert warned <= 5


def test_a_slow_trend_is_seen_through_the_noise() -> None:
    rng = np.random.default_rng(0)
    levels = np.linspace(1.0, 1.3, 100) * rng.lognormal(0.0, 0.02, 100)
    drift = drift_of(reference(list(levels)), subjects_per_pass=10)
    assert drift is not None and drift.warning is not None
    assert drift.drift_pct == pytest.approx(100 * 0.24 / 1.15, abs=3)  # first to last fifth: 0.8 of the trend


def test_one_pass_says_nothing() -> None:
    assert drift_of(reference([1.0]), subjects_per_pass=10) is None
