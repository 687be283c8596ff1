"""The page of `nanosd calibrate --evaluate`, and the same facts in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from latency_predictors.evaluation import Evaluation, evaluate
from latency_predictors.fitting import ProfileFacts, fit_profile
from latency_predictors.measurement import Measurement
from latency_predictors.training import Training
from nas.report.profile_facts import error_facts, profile_facts
from nas.report.profile_page import write_profile_page
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from tests.latency_predictors.made_up import kernel_tables, measurement, synthetic

FACTS = ProfileFacts(device="A <phone>", runtime="r", precision="float32", latent_size=8, num_tokens=5, threads=1)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return load_space("toy")


def fitted(space: SearchSpace, num_parts: int, num_networks: int, off: float = 0.0) -> Evaluation:
    """Of so many blocks and whole U-Nets of the device of `synthetic`; every other U-Net is slower by `off`."""
    known = synthetic(space)[0].training
    parts = {name: timing for name, timing in list(known.parts.items())[:num_parts] if isinstance(timing, Measurement)}
    networks = {}
    for row, (name, timing) in enumerate(list(known.networks.items())[:num_networks]):
        networks[name] = measurement(name, timing.latency_ms * (1.0 + off * (row % 2)))
    return evaluate(fit_profile(space, kernel_tables(space), Training(parts, networks), FACTS))


def test_one_is_a_block_and_two_are_blocks(space: SearchSpace) -> None:
    def said(num_parts: int, num_networks: int) -> str:
        return {label: value for label, value, _ in profile_facts(fitted(space, num_parts, num_networks))}["fitted to"]

    assert [said(1, 3), said(2, 1), said(0, 2)] == ["1 block and 3 U-Nets", "2 blocks and 1 U-Net", "2 U-Nets"]


def test_bars_that_are_all_zero_are_a_sentence(space: SearchSpace, tmp_path: Path) -> None:
    found = fitted(space, 99, 3)
    assert found.effects and not any(e.error_pct or e.std_pct for e in found.effects)
    page = write_profile_page(found, tmp_path / "p.html").read_text()
    assert 'id="figure-stages"' not in page and "the errors of these 3 whole U-Nets are no larger with some" in page
    assert 'id="figure-parity"' in page and "A &lt;phone&gt;" in page and "A <phone>" not in page
    assert "Verdict: not judged" in page, "three networks in the right order are luck in one of six cases"


def test_figures_say_how_uncertain_they_are(space: SearchSpace, tmp_path: Path) -> None:
    found = fitted(space, 99, 8, off=0.02)
    errors = sorted(abs(point.error_pct) for point in found.points)
    facts = {label: (value, small) for label, value, small in error_facts(found)}
    # Of eight networks the second and the seventh error: the extremes but one.
    assert facts["median error"][1] == f"absolute; 90 % interval {errors[1]:.1f} to {errors[6]:.1f} %"
    assert facts["judged on"] == ("8 whole U-Nets", "left out of the fit in turn")
    page = write_profile_page(found, tmp_path / "p.html").read_text()
    assert all(value in page for value, _ in list(facts.values())[1:])
    few = {label: small for label, _, small in error_facts(fitted(space, 99, 4, off=0.02))}
    assert few["median error"] == "too few U-Nets for an interval of it"


def test_a_profile_from_before_there_were_intervals_gets_one(space: SearchSpace) -> None:
    profile, _ = synthetic(space)
    assert profile.judgement is not None and profile.judgement.median_interval_pct is not None
    older = profile.judgement.model_copy(update={"median_interval_pct": None})
    earlier = profile.model_copy(update={"judgement": older})
    assert evaluate(earlier).judgement == profile.judgement


def test_nothing_is_judged_where_nothing_was_measured(space: SearchSpace, tmp_path: Path) -> None:
    found = fitted(space, 99, 0)
    assert error_facts(found) == []
    page = write_profile_page(found, tmp_path / "p.html").read_text()
    assert 'id="figure-' not in page and "no error is known" in page
