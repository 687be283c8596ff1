from __future__ import annotations

import numpy as np
import pytest

from experiments.bench.this_machine import main, noise_floor_pct
from latency_predictors.measurement import Recording, current_conditions

CONDITIONS = current_conditions("1", spinning=False)


def recording(subject: str, pass_id: int, samples: np.ndarray) -> Recording:
    return Recording(
        subject=subject,
        pass_id=pass_id,
        device="d",
        runtime="r",
        precision="float32",
        threads=1,
        wall_ms=tuple(samples),
        cpu_ms=tuple(samples),
        conditions=CONDITIONS,
    )


def test_the_noise_floor_is_the_error_of_a_median_of_all_runs() -> None:
    """100 subjects of known noise, one pass in two of a slower machine: against medians' true errors."""
    rng = np.random.default_rng(0)
    truth = {f"{i}": 10.0 + i for i in range(100)}
    speed = {number: 1.3 if number % 2 else 1.0 for number in range(10)}
    recorded = {
        name: [recording(name, p, ms * speed[p] * np.exp(rng.normal(0, 0.05, 10))) for p in speed]
        for name, ms in truth.items()
    }
    floor = noise_floor_pct(recorded, list(truth))
    # The median of 100 runs of 5 % has a standard deviation of 1.2533 x 5 % / 10; |z| has the median 0.6745.
    assert np.median(floor) == pytest.approx(1.2533 * 5 / 10 * 0.6745, rel=0.25)


def test_one_pass_says_nothing_of_noise() -> None:
    assert np.isnan(noise_floor_pct({"a": [recording("a", 1, np.ones(5))]}, ["a"])).all()


def test_an_unknown_shape_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shape", "toy,cat"]) == 2
    assert "--shape: 'toy,cat'; legal are toy, sd-tenth, sd15" in capsys.readouterr().err
