from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_predictors.calibration import build_profile
from latency_predictors.measurement import Measurement, current_conditions
from latency_predictors.profile import DeviceProfile, fit_additive
from latency_predictors.subjects import BASE, option_subject
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space


def measurement(subject: str, median_ms: float) -> Measurement:
    return Measurement(
        subject=subject, num_samples=9, median_ms=median_ms, iqr_ms=0.0, p10_ms=median_ms, p90_ms=median_ms,
        ci95_ms=(median_ms, median_ms), device="d", runtime="r", precision="float32", threads=1, clock="wall",
        num_preempted=0, conditions=current_conditions("1", False),
    )  # fmt: skip


def synthetic(space: SearchSpace) -> tuple[DeviceProfile, dict[str, float]]:
    """A device whose latencies are exactly 1.25 * (base + sum of parts) - 0.3 ms."""
    rng = np.random.default_rng(0)
    parts = {
        option_subject(s, o): 0.0 if o == "none" else float(rng.uniform(0.1, 1.0))
        for s in space.stages
        for o in space.options[s]
    }
    nets = [space.decode(row) for row in space.sample(rng, 12)]
    measured = {name: measurement(name, ms) for name, ms in parts.items() if ms > 0}
    measured[BASE] = measurement(BASE, 0.2)
    for net in nets:
        total = 0.2 + sum(parts[option_subject(s, o)] for s, o in net.options.items())
        measured[net.id] = measurement(net.id, 1.25 * total - 0.3)
    profile = build_profile(space, measured, nets[:6], nets[6:], teacher_key="t", latent_size=8, num_tokens=5)
    return profile, parts


@pytest.fixture
def profile(space: SearchSpace) -> DeviceProfile:
    return synthetic(space)[0]


def test_an_additive_device_is_predicted_exactly(space: SearchSpace) -> None:
    profile, parts = synthetic(space)
    assert profile.fit.scale == pytest.approx(1.25)
    assert profile.fit.intercept_ms == pytest.approx(-0.3)
    assert profile.worst_error_pct == pytest.approx(0, abs=1e-9)
    for row, got in zip(space.enumerate(), profile.predict(space, space.enumerate()), strict=True):
        candidate = space.decode(row)
        wanted = 1.25 * (0.2 + sum(parts[option_subject(s, o)] for s, o in candidate.options.items())) - 0.3
        assert got == pytest.approx(wanted)
        assert profile.predict_candidate(candidate) == pytest.approx(wanted)


def test_dropping_the_deep_path_is_free_and_faster(space: SearchSpace, profile: DeviceProfile) -> None:
    assert profile.options["deep"]["none"] is None
    column = space.stages.index("deep")
    kept, dropped = (np.zeros(7, dtype=int) for _ in range(2))
    dropped[column] = space.options["deep"].index("none")
    assert profile.predict(space, dropped) < profile.predict(space, kept)


def test_a_million_candidates_in_a_moment() -> None:
    space = load_space("nanosd")
    profile, _ = synthetic(space)
    matrix = space.sample(np.random.default_rng(0), 1_000_000)
    begin = time.thread_time()
    latency_ms = profile.predict(space, matrix)
    assert time.thread_time() - begin < 0.5
    assert latency_ms.shape == (1_000_000,)


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_the_least_relative_error(seed: int) -> None:
    """Against a brute-force grid around it."""
    rng = np.random.default_rng(seed)
    additive = rng.uniform(1, 4, 8)
    measured = (0.4 + 0.8 * additive) * rng.lognormal(0, 0.05, 8)
    fit = fit_additive(additive, measured, 1.0)

    def loss(intercept: float, scale: float) -> float:
        return float(np.sum(((intercept + scale * additive) / measured - 1) ** 2))

    best = loss(fit.intercept_ms, fit.scale)
    for di, ds in itertools.product(np.linspace(-0.1, 0.1, 9), repeat=2):
        assert best <= loss(fit.intercept_ms + di, fit.scale + ds) + 1e-12


def test_no_candidate_gets_a_latency_of_zero_or_less() -> None:
    """A steep line through slow networks would go below zero for the fastest."""
    additive = np.array([4.0, 5.0, 6.0])
    fit = fit_additive(additive, np.array([1.0, 3.0, 5.0]), 0.5)
    assert fit.intercept_ms + fit.scale * 0.5 > 0


def test_latencies_that_do_not_grow_are_refused() -> None:
    with pytest.raises(UserError, match="calibrate again"):
        fit_additive(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), 1.0)


def test_the_file_brings_back_the_profile(profile: DeviceProfile, tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    profile.save(path)
    assert DeviceProfile.load(path) == profile
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]
    readable = json.loads(path.read_text())
    assert readable["format_version"] == 1
    assert readable["options"]["E1"]["R"]["median_ms"] > 0


DELETE = object()


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("options", "E1", "R", "median_ms"), float("nan"), r"options\.E1\.R\.median_ms"),
        (("options", "E1", "R", "median_ms"), 0.0, r"options\.E1\.R\.median_ms"),
        (("options", "E1", "R", "median_ms"), -1.0, r"options\.E1\.R\.median_ms"),
        (("options", "E1", "R", "ci95_ms"), [1.0, float("inf")], r"options\.E1\.R\.ci95_ms\.1"),
        (("options", "E1", "R"), None, r"options\.E1\.R is null"),
        (("fit", "scale"), float("nan"), r"fit\.scale"),
        (("fit", "intercept_ms"), float("inf"), r"fit\.intercept_ms"),
        (("fit", "scale"), 0, r"fit\.scale"),
        (("base",), DELETE, "base"),
        (("surprise",), 1, "surprise"),
        (("format_version",), 2, "format_version"),
        (("threads",), "many", "threads"),
        (("precision",), "int3", "precision"),
        (("validation", 0, "measured_ms"), "NaN", r"validation\.0\.measured_ms"),
    ],
)
def test_a_bad_field_is_named_in_one_line(
    profile: DeviceProfile, tmp_path: Path, where: tuple[Any, ...], value: Any, named: str
) -> None:
    content = profile.model_dump(mode="json")
    at: Any = content
    for key in where[:-1]:
        at = at[key]
    if value is DELETE:
        del at[where[-1]]
    else:
        at[where[-1]] = value
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(content))  # writes NaN as Python does
    with pytest.raises(UserError, match=named) as caught:
        DeviceProfile.load(path)
    assert "\n" not in str(caught.value)
    assert "calibrate" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_no_profile_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profile.json"
    with pytest.raises(UserError, match="profile"):
        DeviceProfile.load(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match="calibrate again"):
        DeviceProfile.load(path)


def test_another_teacher_space_or_size_is_refused(profile: DeviceProfile, space: SearchSpace) -> None:
    profile.check(space, "t", 8)
    with pytest.raises(UserError, match="teacher_key"):
        profile.check(space, "other")
    with pytest.raises(UserError, match="latent_size"):
        profile.check(space, "t", 64)
    with pytest.raises(UserError, match="stage E1 was not calibrated"):
        profile.predict(load_space("nanosd"), np.zeros((1, 7), dtype=int))
    fewer = SearchSpace(name="fewer", options={"E1": ("R",)})
    with pytest.raises(UserError, match="stages"):
        profile.predict(fewer, np.zeros((1, 1), dtype=int))
