"""A calibration from the file of a session is the calibration of the session, as far as the file goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latency_predictors.evaluation import evaluate
from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.imported import one_device, sort_rows
from latency_predictors.importers import ImportedMeasurement, read_measurements
from latency_predictors.measurement import Measurement, current_conditions, summarise
from latency_predictors.measurement_csv import as_csv
from latency_predictors.subject_names import BASE, option_subject
from latency_predictors.training import Training
from search_spaces.options import NONE
from search_spaces.space import SearchSpace
from tests.latency_predictors.made_up import kernel_tables


@pytest.fixture
def measured(space: SearchSpace) -> Training:
    """Parts, and networks that are their sums, each with a spread of its own: every ten samples apart by a factor."""
    rng = np.random.default_rng(0)
    conditions = current_conditions("1", False)

    def measurement(subject: str, ms: float) -> Measurement:
        summary = summarise(ms * (1.0 + rng.uniform(0.01, 0.05) * np.linspace(-1.0, 1.0, 21)))
        return Measurement(
            **summary.model_dump(), subject=subject, device="a, \"b\"", runtime="r", precision="float32", threads=2,
            clock="wall", num_preempted=0, conditions=conditions,
        )  # fmt: skip

    names = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s] if o != NONE)]
    parts = {name: float(rng.uniform(0.1, 1.0)) for name in names}
    nets = list(dict.fromkeys(space.decode(row) for row in space.sample(rng, 40)))[:8]
    sums = {n.id: parts[BASE] + sum(parts.get(option_subject(*o), 0.0) for o in n.options.items()) for n in nets}
    return Training(
        {name: measurement(name, ms) for name, ms in parts.items()},
        {name: measurement(name, 1.1 * ms * float(rng.uniform(0.99, 1.01))) for name, ms in sums.items()},
    )


def test_what_is_measured_here_and_what_is_read_back_are_one(
    measured: Training, space: SearchSpace, tmp_path: Path
) -> None:
    path = tmp_path / "measurements.csv"
    path.write_text(as_csv({**measured.parts, **measured.networks}, {"tool": "1", "other": "2"}))
    result = read_measurements(path)
    assert not result.flags
    found = sort_rows(result.measurements, space)
    read = Training(found.parts, found.networks)
    for mine, theirs in ((measured.parts, read.parts), (measured.networks, read.networks)):
        assert list(mine) == list(theirs)
        for name, row in theirs.items():
            own = mine[name]
            assert isinstance(row, ImportedMeasurement) and isinstance(own, Measurement)
            carried = row.model_dump(exclude_none=True, exclude={"provenance", "toolchain", "statistic"})
            assert carried == {"latency_ms": own.median_ms} | own.model_dump(include=carried.keys() - {"latency_ms"})
            assert carried.keys() >= {"ci95_ms", "num_samples", "device", "runtime", "precision", "threads"}
    common = one_device(result.measurements)
    assert common == {
        "device": 'a, "b"', "runtime": "r", "precision": "float32", "threads": 2, "toolchain": "tool 1, other 2",
    }  # fmt: skip
    facts = ProfileFacts(latent_size=8, num_tokens=5, **common)
    kernels = kernel_tables(space)
    here, there = (fit_profile(space, kernels, training, facts) for training in (measured, read))
    matrix = space.enumerate()
    one, other = here.predict(space, matrix), there.predict(space, matrix)
    for field in ("latency_ms", "low_ms", "high_ms"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field
    assert evaluate(there).repeatability_pct == evaluate(here).repeatability_pct
    assert 0.2 < evaluate(there).repeatability_pct < 5.0
    without = {n: r.model_copy(update={"ci95_ms": None}) for n, r in found.networks.items()}
    narrower = fit_profile(space, kernels, Training(found.parts, without), facts).predict(space, matrix)
    assert (narrower.high_ms < other.high_ms).all(), "the noise floor is part of the interval"
    assert there.model_validate_json(there.model_dump_json()) == there


def test_rows_without_an_interval_keep_the_hash_that_they_had(space: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("subject,latency_ms\nE1/R,2.5\n")
    rows = sort_rows(read_measurements(path).measurements, space)
    # By the version before there were intervals.
    assert Training(rows.parts, {}).sha256 == "06f3ea21c440a5013189e89d29ce36a3a144eaf3fd300c01bbf32582fb30e8d3"
