"""The bench of intervals: on a made-up device whose U-Nets are the sums of their blocks, up to a known error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench.intervals import CONSTANTS, main
from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.models import additive
from latency_predictors.subject_names import BASE, option_subject
from latency_predictors.training import Training
from search_spaces.space import SearchSpace
from tests.latency_predictors.made_up import kernel_tables, measurement

OFF = 0.08
"""Every other U-Net takes so much more than the sum of its blocks, the rest so much less, in log."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    space = SearchSpace(name="made-up", options=dict.fromkeys(("E1", "E2", "D2", "D1"), ("RARA", "RA", "RR", "R")))
    kernels, rng = kernel_tables(space), np.random.default_rng(0)
    names = [BASE, *(option_subject(s, o) for s in space.stages for o in space.options[s])]
    parts = {name: float(rng.uniform(0.5, 1.0)) for name in names}
    nets = [space.decode(row) for row in space.unrank(rng.permutation(space.num_candidates)[:24])]
    sums = {n.id: parts[BASE] + sum(parts[option_subject(*option)] for option in n.options.items()) for n in nets}
    networks = {name: ms * float(np.exp(OFF * (-1) ** i)) for i, (name, ms) in enumerate(sums.items())}
    training = Training(*({n: measurement(n, ms) for n, ms in each.items()} for each in (parts, networks)))
    path = tmp_path_factory.mktemp("bench") / "p.json"
    fit_profile(space, kernels, training, ProfileFacts("d", "r", "float32", 8, 5)).save(path)
    return path


def table(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, dict[str, float]]:
    arguments = ["--profile", str(path), "--networks", "1,12", "--blocks", "17", "--draws", "4", "--json", *more]
    assert main(arguments) == 0
    found: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out)["profiles"][str(path)]
    return found


def test_coverage_is_that_of_the_errors(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = table(path, capsys)
    assert list(found) == ["17 blocks, 1 U-Nets", "17 blocks, 12 U-Nets"]
    one, many = found.values()
    assert one["num_fits"] == many["num_fits"] == 4
    # From one U-Net, half of the others are off by nothing and half by 2 OFF; from many, all by about OFF.
    assert 100 * OFF / 2 < many["median_error_pct"] < 100 * 2 * OFF
    assert many["half_width_pct"] > many["median_error_pct"] and many["coverage90"] > 0.8
    for row in found.values():
        assert 0.0 <= row["coverage90"] <= 1.0


def test_a_smaller_constant_holds_less(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = additive.PRIOR_LOG_STD_SCALE_ONLY
    plain = table(path, capsys)["17 blocks, 1 U-Nets"]
    scale = [f"--scale={name}=0.01" for name in CONSTANTS if name.startswith("prior_log_std")]
    narrow = table(path, capsys, *scale)["17 blocks, 1 U-Nets"]
    assert narrow["half_width_pct"] < 0.1 * plain["half_width_pct"]
    assert narrow["coverage90"] < plain["coverage90"] and narrow["median_error_pct"] == plain["median_error_pct"]
    assert before == additive.PRIOR_LOG_STD_SCALE_ONLY, "only meanwhile"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--networks=24"], "the profile has 24; give fewer"),
        (["--blocks=18"], "the profile has 17; give at most"),
        (["--blocks=4", "--networks=3", "--scale=colour=2"], "--scale colour=2: legal are positive factors of prior"),
        (["--blocks=4", "--networks=3", "--scale=chosen_factor=0"], "--scale chosen_factor=0: legal are positive"),
    ],
)
def test_what_must_be_mended_is_one_line(
    path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--profile", str(path), "--blocks=17", "--networks=1", *arguments]) == 2
    errors = capsys.readouterr().err
    assert said in errors and errors.count("\n") == 1
