from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_predictors.models import Additive, FittedAdditive, Inputs
from latency_predictors.profile import DeviceProfile
from latency_predictors.subject_names import option_subject
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from tests.latency_predictors.made_up import synthetic


@pytest.fixture
def profile(space: SearchSpace) -> DeviceProfile:
    return synthetic(space)[0]


def test_an_additive_device_is_predicted_exactly(space: SearchSpace) -> None:
    profile, parts = synthetic(space)
    assert isinstance(profile.model, FittedAdditive)
    assert profile.model.scale == pytest.approx(1.25)
    assert profile.model.intercept_ms == pytest.approx(-0.3)
    assert profile.judgement is not None
    assert profile.judgement.p90_error_pct == pytest.approx(0, abs=1e-6)
    assert (profile.judgement.how, profile.judgement.spearman, profile.judgement.coverage90) == ("unseen", 1.0, 1.0)
    for row, got in zip(space.enumerate(), profile.latency_ms(space, space.enumerate()), strict=True):
        candidate = space.decode(row)
        wanted = 1.25 * (0.2 + sum(parts[option_subject(s, o)] for s, o in candidate.options.items())) - 0.3
        assert got == pytest.approx(wanted)


def test_dropping_the_deep_path_is_free_and_faster(space: SearchSpace, profile: DeviceProfile) -> None:
    assert profile.option_ms("deep", "none") == 0
    column = space.stages.index("deep")
    kept, dropped = (np.zeros(7, dtype=int) for _ in range(2))
    dropped[column] = space.options["deep"].index("none")
    assert profile.latency_ms(space, dropped) < profile.latency_ms(space, kept)


def test_many_candidates_are_predicted_like_one(space: SearchSpace, profile: DeviceProfile) -> None:
    """More rows than there are networks are looked up."""
    matrix = space.sample(np.random.default_rng(0), 10 * space.num_candidates)
    together = profile.predict(space, matrix)
    for row in range(0, len(matrix), 7):
        alone = profile.predict(space, matrix[row])
        for name in ("latency_ms", "low_ms", "high_ms", "extrapolates"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[row], rel=1e-12)


def test_a_space_may_list_fewer_options_in_another_order(space: SearchSpace, profile: DeviceProfile) -> None:
    reversed_options = {stage: tuple(reversed(options)) for stage, options in space.options.items()}
    other = SearchSpace(name="other", options=reversed_options | {"E1": ("R",)})
    for row in other.enumerate():
        same = space.encode(other.decode(row))
        assert profile.latency_ms(other, row) == pytest.approx(profile.latency_ms(space, same))
    assert profile.own_space.options == space.options


def additive(sums: Any, measured_ms: Any, least_ms: float) -> FittedAdditive:
    sums = np.asarray(sums, float)
    return Additive(power=False, least_ms=least_ms).fit(
        Inputs(np.ones((len(sums), 1)), ("k",), sources=sums[:, None]), measured_ms
    )


@pytest.mark.parametrize("seed", range(4))
def test_the_fit_is_the_least_relative_error(seed: int) -> None:
    """Against a brute-force grid around it."""
    rng = np.random.default_rng(seed)
    sums = rng.uniform(1, 4, 8)
    measured = (0.4 + 0.8 * sums) * rng.lognormal(0, 0.05, 8)
    fit = additive(sums, measured, 1.0)

    def loss(intercept: float, scale: float) -> float:
        return float(np.sum(((intercept + scale * sums) / measured - 1) ** 2))

    best = loss(fit.intercept_ms, fit.scale)
    for di, ds in itertools.product(np.linspace(-0.1, 0.1, 9), repeat=2):
        assert best <= loss(fit.intercept_ms + di, fit.scale + ds) + 1e-12


def test_no_candidate_gets_a_latency_of_zero_or_less() -> None:
    """A steep line through slow networks would go below zero for the fastest."""
    fit = additive([4.0, 5.0, 6.0], np.array([1.0, 3.0, 5.0]), 0.5)
    assert fit.intercept_ms + fit.scale * 0.5 > 0


def test_latencies_that_do_not_grow_are_refused() -> None:
    with pytest.raises(UserError, match="calibrate again"):
        additive([1.0, 2.0, 3.0], np.array([3.0, 2.0, 1.0]), 1.0)


def test_the_file_brings_back_the_profile(profile: DeviceProfile, tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    profile.save(path)
    assert DeviceProfile.load(path) == profile
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]
    readable = json.loads(path.read_text())
    assert readable["format_version"] == 2
    assert readable["options"]["E1"]["R"]["timing"]["median_ms"] > 0


DELETE = object()


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        (("options", "E1", "R", "timing", "median_ms"), float("nan"), r"options\.E1\.R\.timing\.median_ms"),
        (("options", "E1", "R", "timing", "median_ms"), 0.0, r"options\.E1\.R\.timing\.median_ms"),
        (("options", "E1", "R", "timing", "ci95_ms"), [1.0, float("inf")], r"options\.E1\.R\.timing\.ci95_ms\.1"),
        (("options", "E1", "R", "timing"), None, r"options\.E1\.R has no latency"),
        (("options", "E1", "R", "kernels"), [1], r"options\.E1\.R\.kernels: 1 sums"),
        (("options", "E1", "R", "kernels"), [1, -1, 2, 3], r"options\.E1\.R\.kernels\.1"),
        (("options", "deep", "none", "estimated_ms"), 1.0, r"options\.deep\.none runs nothing"),
        (("model", "scale"), float("nan"), r"model\.scale"),
        (("model", "intercept_ms"), float("inf"), r"model\.intercept_ms"),
        (("model", "scale"), 0, r"model\.scale"),
        (("model", "kind"), "guess", "model"),
        (("kernel_names",), ["a", "b", "c", "d"], r"kernel_names"),
        (("judgement", "within10"), 2, r"judgement\.within10"),
        (("base",), DELETE, "base"),
        (("surprise",), 1, "surprise"),
        (("format_version",), 3, "format_version"),
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
        profile.latency_ms(load_space("nanosd"), np.zeros((1, 7), dtype=int))
    fewer = SearchSpace(name="fewer", options={"E1": ("R",)})
    with pytest.raises(UserError, match="stages"):
        profile.latency_ms(fewer, np.zeros((1, 1), dtype=int))
