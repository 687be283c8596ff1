"""Profiles that were edited by hand: each is refused in one line, or predicts latencies that are some."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.latency_table import LatencyTable
from latency_predictors.models import FittedModel, Gp, Nnls, OneHotRidge, unlearned_prior
from latency_predictors.npu.profile import NpuProfile
from latency_predictors.profile import DeviceProfile
from latency_predictors.profile_file import load_profile
from latency_predictors.spec_sheet import SpecSheet
from latency_predictors.training import Training
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.stage_costs import stage_costs
from tests.latency_predictors.made_up import kernel_tables, measurement, synthetic

FACTS = ProfileFacts(device="d", runtime="r", precision="float32", latent_size=8, num_tokens=5)
SPEC = SpecSheet(macs_per_s=5e6, memory_bytes_per_s=4e6, bytes_per_element=4, operator_s=5e-5)
SPACE = SearchSpace(
    name="tiny",
    options={
        "E1": ("RARA", "R"), "E2": ("RARA", "R"), "E3": ("R",), "deep": ("RR.RAR.RRR", "none"), "D3": ("R",),
        "D2": ("R",), "D1": ("RARARA", "R@3"),
    },
)  # fmt: skip
EVERY = SPACE.enumerate()
DELETE = object()
NUMBERS = (None, float("nan"), float("inf"), -1.0, 0, 1e25, 1e308, -1e308)
Where = tuple[str | int, ...]


def fitted(num_nets: int, sources: dict[str, LatencyTable] | None = None, **known: Any) -> DeviceProfile:
    kernels, rng = kernel_tables(SPACE), np.random.default_rng(0)
    rows = EVERY[rng.permutation(len(EVERY))[:num_nets]]
    ms = (kernels.of_candidates(SPACE, rows) @ [2e-4, 3e-4, 0.05, 1e-3] + 0.4) * rng.lognormal(0, 0.02, num_nets)
    nets = {SPACE.decode(row).id: measurement("n", float(m)) for row, m in zip(rows, ms, strict=True)}
    return fit_profile(SPACE, kernels, Training(networks=nets), FACTS, sources=sources or {}, **known)


def holding(fit: Callable[[DeviceProfile], FittedModel]) -> DeviceProfile:
    """A profile with another model of the same networks."""
    profile = fitted(8)
    return DeviceProfile.model_validate(profile.model_dump() | {"model": fit(profile).model_dump()})


def _inputs(profile: DeviceProfile) -> Any:
    return profile.inputs(SPACE, EVERY[:8])


def transferred() -> DeviceProfile:
    table = synthetic(SPACE)[0].tabulate(None, SPACE, 8, 5)
    return fitted(8, {"one": table, "two": fitted(6).tabulate(None, SPACE, 8, 5)})


MS = np.linspace(1.0, 2.0, 8)
PROFILES: dict[str, Callable[[], DeviceProfile]] = {
    "additive": lambda: synthetic(SPACE)[0],
    "roofline": lambda: fitted(0, spec=SPEC),
    "anchor": lambda: fitted(1),
    "few": lambda: fitted(3),
    "networks": lambda: fitted(8),
    "sources": transferred,
    "gp": lambda: holding(lambda p: Gp(prior=unlearned_prior(_inputs(p))).fit(_inputs(p), MS)),
    "nnls": lambda: holding(lambda p: Nnls(features="places").fit(_inputs(p), MS)),
    "onehot": lambda: holding(lambda p: OneHotRidge(num_options=2).fit(_inputs(p), MS)),
}


def edits(value: Any, where: Where = ()) -> Iterator[tuple[Where, Any]]:
    """Every place, and what it becomes; of a list the first and the last element, which stand for all."""
    if where:
        yield where, DELETE
    if isinstance(value, dict):
        yield where, {}
        for key, child in value.items():
            if not set(where[:-1]) & {"timing", "conditions", "manifest"}:  # measurement.py's own
                yield from edits(child, (*where, key))
    elif isinstance(value, list):
        yield from ((where, new) for new in ([], [*value, *value[:1]], None))
        for at in sorted({0, len(value) - 1} if value else ()):
            yield from edits(value[at], (*where, at))
    elif isinstance(value, str):
        yield from ((where, new) for new in ("", "x", None))
    elif isinstance(value, bool) or value is None:
        yield from ((where, new) for new in (not value, 3, "x"))
    else:
        yield from ((where, new) for new in (*NUMBERS, 2 * value))


def edited(content: Any, where: Where, value: Any) -> Any:
    if not where:
        return value
    content = copy.deepcopy(content) if not isinstance(content, (dict, list)) else copy.copy(content)
    head, *rest = where
    if value is DELETE and not rest:
        del content[head]
    else:
        content[head] = edited(content[head], tuple(rest), value)  # type: ignore[index]
    return content


def check_edits(content: Any, path: Path, places: Where, predict: Callable[[Any], Any], without: str = "") -> None:
    """Every edit of the part of a profile that is at ``places``."""
    part = content
    for key in places:
        part = part[key]
    outcomes = {"refused": 0, "predicts": 0}
    for where, value in edits(part, places):
        if not where or where[0] == without:
            continue
        path.write_text(json.dumps(edited(content, where, value)))
        said = f"{'.'.join(map(str, where))} = {'deleted' if value is DELETE else repr(value)[:60]}"
        try:
            profile = load_profile(path)
        except UserError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error), said
            assert any(str(key) in str(error) for key in where if isinstance(key, str)), f"{said}: {error}"
            continue
        try:
            found = predict(profile)
        except UserError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error), said
            continue
        outcomes["predicts"] += 1
        assert np.isfinite(found.high_ms).all(), said
        assert (found.low_ms > 0).all(), said
        assert (found.low_ms <= found.latency_ms).all(), said
        assert (found.latency_ms <= found.high_ms).all(), said
    assert min(outcomes.values()) > 0, outcomes


def predict_all(profile: DeviceProfile) -> Any:
    return profile.predict(profile.own_space, profile.own_space.enumerate())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow) if k in ("anchor", "sources", "gp") else k for k in PROFILES]
)
def test_an_edited_model_is_refused_or_predicts_latencies(kind: str, tmp_path: Path) -> None:
    content = PROFILES[kind]().model_dump(mode="json") | {"fitted": [], "validation": []}
    check_edits(content, tmp_path / "p.json", ("model",), predict_all)


@pytest.mark.filterwarnings("error")
def test_an_edited_profile_is_refused_or_predicts_latencies(tmp_path: Path) -> None:
    """All but the model, which has its own test."""
    content = transferred().model_dump(mode="json")
    check_edits(content, tmp_path / "p.json", (), predict_all, without="model")


@pytest.mark.filterwarnings("error")
def test_an_edited_npu_profile_is_refused_or_predicts_latencies(tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=8, block_out_channels=(4, 8, 8, 8), norm_num_groups=2, attention_head_dim=2,
            cross_attention_dim=8,
        )  # fmt: skip
    costs = stage_costs(unet, SPACE, 8, 5, 1, None)
    content = NpuProfile.load("sm8750-w8a16").model_dump(mode="json")
    check_edits(content, tmp_path / "p.json", (), lambda p: p.of_costs(costs, SPACE, 8).predict(EVERY))


def test_a_file_with_a_checksum_is_as_it_was_written_or_refused(tmp_path: Path) -> None:
    profile, path = synthetic(SPACE)[0], tmp_path / "p.json"
    profile.save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content))  # laid out otherwise, the same
    assert load_profile(path) == profile
    for where, value in (
        (("options", "E1", "RARA"), DELETE),
        (("space",), "other"),
        (("base", "timing", "median_ms"), 2.0),
        (("sha256",), "0"),
    ):
        path.write_text(json.dumps(edited(content, where, value)))
        with pytest.raises(UserError, match="edited by hand or damaged"):
            load_profile(path)
    path.write_text(json.dumps(edited(content, ("sha256",), DELETE)))  # as files were before there was one
    assert load_profile(path) == profile
    shipped = NpuProfile.load("sm8750-w8a16")
    shipped.save(path)
    assert load_profile(path) == shipped
    path.write_text(json.dumps(edited(json.loads(path.read_text()), ("roofline", "constant_ms"), 9.0)))
    with pytest.raises(UserError, match="edited by hand or damaged"):
        load_profile(path)


def test_what_no_field_tells_is_refused_when_it_predicts() -> None:
    """The last guard: a line so far below that no candidate takes any time."""
    profile = synthetic(SPACE)[0]
    model = profile.model.model_copy(update={"intercept_ms": -1e9, "power_weight": 0.0})
    with pytest.raises(UserError, match="no latency; the profile is damaged"):
        predict_all(profile.model_copy(update={"model": model}))
