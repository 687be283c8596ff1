"""The bench of what is measured: on a made-up device whose networks are sums of their kernel sums."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench.choose import main
from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.training import Training
from search_spaces.space import SearchSpace
from tests.latency_predictors.made_up import kernel_tables, measurement


def test_every_way_of_choosing_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages = dict.fromkeys(("E1", "E2", "D2", "D1"), ("RARA", "RA", "RR", "R"))
    space = SearchSpace(name="made-up", options={**stages, "deep": ("none",)})
    kernels = kernel_tables(space)
    matrix = space.unrank(np.random.default_rng(0).permutation(space.num_candidates)[:24])
    latency_ms = kernels.of_candidates(space, matrix) @ np.array([1e-4, 1e-3, 2e-2, 1e-4])
    networks = {c.id: measurement(c.id, float(ms)) for c, ms in zip(map(space.decode, matrix), latency_ms, strict=True)}
    path = tmp_path / "p.json"
    facts = ProfileFacts("d", "r", "float32", 8, 5)
    fit_profile(space, kernels, Training({}, networks), facts).save(path)
    arguments = ["--profile", str(path), "--budgets", "3,6", "--draws", "2"]
    assert main([*arguments, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)["profiles"][str(path)]
    assert set(table) == {"3", "6"}
    ways = {f"{m}, {c}" for m in ("candidates", "both") for c in ("i_optimal", "d_optimal", "random")}
    assert all(set(rows) == ways for rows in table.values())
    assert table["6"]["candidates, i_optimal"]["median_error_pct"] < 1.0, "the device has as many rates as kernels"
    assert main(["--profile", str(path), "--budgets", "20"]) == 2
    assert "24 whole U-Nets" in capsys.readouterr().err
