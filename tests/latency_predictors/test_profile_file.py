"""Reading profiles: the first format, the door for all kinds, tables of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_predictors.npu.profile import NpuProfile
from latency_predictors.profile import DeviceProfile
from latency_predictors.profile_file import load_profile
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from tests.latency_predictors.made_up import measurement, synthetic


def write_v1(space: SearchSpace, path: Path, scale: float, intercept_ms: float) -> dict[str, dict[str, float]]:
    """A profile as the first format had it, of a device that is exactly affine in the parts' sum (base: 0.5 ms)."""
    rng = np.random.default_rng(5)
    parts = {s: {o: 0.0 if o == "none" else float(rng.uniform(0.2, 2)) for o in space.options[s]} for s in space.stages}

    def timing(name: str, ms: float) -> dict[str, Any]:
        return measurement(name, ms).model_dump(mode="json")

    def check(row: np.ndarray) -> dict[str, Any]:
        candidate = space.decode(row)
        ms = intercept_ms + scale * (0.5 + sum(parts[s][o] for s, o in candidate.options.items()))
        return {"candidate": candidate.id, "measured_ms": ms, "predicted_ms": ms, "measurement": timing("n", ms)}

    checks = [check(row) for row in space.enumerate()[:9]]
    content = {
        "format_version": 1, "device": "old", "runtime": "r", "precision": "float32", "threads": 1, "teacher_key": "t",
        "space": space.name, "latent_size": 8, "num_tokens": 5, "median_error_pct": 0.0, "worst_error_pct": 0.0,
        "fit": {"scale": scale, "intercept_ms": intercept_ms}, "base": timing("base", 0.5),
        "options": {s: {o: timing(o, ms) if ms else None for o, ms in options.items()} for s, options in parts.items()},
        "fitted": checks[:5], "validation": checks[5:],
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return parts


def test_the_first_format_predicts_what_it_always_did(space: SearchSpace, tmp_path: Path) -> None:
    parts = write_v1(space, tmp_path / "old.json", 0.9, -0.4)
    profile = DeviceProfile.load(tmp_path / "old.json")
    assert (profile.format_version, profile.information, profile.kernel_names) == (2, "blocks", ())
    assert (len(profile.fitted), len(profile.validation)) == (5, 4)
    for row, got in zip(space.enumerate(), profile.latency_ms(space, space.enumerate()), strict=True):
        wanted = -0.4 + 0.9 * (0.5 + sum(parts[s][o] for s, o in space.decode(row).options.items()))
        assert got == pytest.approx(wanted)
    profile.save(tmp_path / "new.json")
    assert load_profile(tmp_path / "new.json") == profile == load_profile(tmp_path / "old.json")


def test_the_first_format_is_checked_as_it_was(space: SearchSpace, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    write_v1(space, path, 0.9, -0.4)
    content = json.loads(path.read_text())
    for where, value, named in (
        (("options", "E1", "R"), None, r"options\.E1\.R is null"),
        (("fit", "scale"), 0, r"fit\.scale"),
        (("base", "median_ms"), -1.0, r"base\.median_ms"),
        (("model",), {}, "model"),
    ):
        changed = json.loads(json.dumps(content))
        at = changed
        for key in where[:-1]:
            at = at[key]
        at[where[-1]] = value
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=named):
            load_profile(path)


def test_one_door_for_every_kind(space: SearchSpace, tmp_path: Path) -> None:
    shipped = load_profile("sm8750-w8a16")
    assert isinstance(shipped, NpuProfile)
    shipped.save(tmp_path / "npu.json")
    assert load_profile(tmp_path / "npu.json") == shipped
    profile = synthetic(space)[0]
    profile.save(tmp_path / "device.json")
    assert load_profile(str(tmp_path / "device.json")) == profile
    with pytest.raises(UserError, match="one of qcs8550-w8a16"):
        load_profile("sm9999")
    with pytest.raises(UserError, match="this is an NPU profile"):
        DeviceProfile.load(tmp_path / "npu.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="content"):
        load_profile(tmp_path / "list.json")


def test_a_device_profile_as_a_table(space: SearchSpace) -> None:
    profile = synthetic(space)[0]
    table = profile.tabulate(None, space, 8, 5)
    matrix = space.enumerate()
    assert table.space is space
    assert np.array_equal(table.latency_ms(matrix), profile.latency_ms(space, matrix))
    assert np.array_equal(table.predict(matrix).high_ms, profile.predict(space, matrix).high_ms)
    assert table.option_ms("E1", "R") == profile.options["E1"]["R"].latency_ms
    assert table.option_ms("E1", "RRRR") is None and table.option_ms("deep", "none") == 0
    with pytest.raises(UserError, match="latent_size"):
        profile.tabulate(None, space, 16, 5)
