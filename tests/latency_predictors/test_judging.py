"""Verdicts: the rule, what a tie is, and which options errors are laid to."""

from __future__ import annotations

from math import comb
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_predictors.judgement import Judgement, median_interval
from latency_predictors.judging import RULE, judge, judge_npu, level_of, repeatability_of, tie_of
from latency_predictors.npu.profile import NpuProfile
from latency_predictors.stage_errors import biased, common, common_error, option_errors
from tests.latency_predictors.made_up import measurement


def errors(
    spearman: float | None,
    p90: float,
    num: int = 50,
    coverage: float = 0.9,
    how: Literal["unseen", "leave_one_out"] = "unseen",
    median: tuple[float, float] | None = None,
) -> Judgement:
    return Judgement(
        how=how,
        num=num,
        median_error_pct=p90 / 3,
        p90_error_pct=p90,
        within10=0.9,
        spearman=spearman,
        kendall=spearman,
        coverage90=coverage,
        median_interval_pct=median,
    )


@pytest.mark.parametrize(
    ("spearman", "p90", "num", "level"),
    [
        (0.95, 12.0, 10, "fit"),
        (0.95, 12.1, 50, "care"),
        (0.949, 1.0, 50, "care"),
        (0.99, 1.0, 9, "care"),
        (0.85, 25.0, 50, "care"),
        (0.84, 5.0, 50, "unfit"),
        (0.99, 25.1, 50, "unfit"),
        (None, 1.0, 50, "unjudged"),
    ],
)
def test_the_rule(spearman: float | None, p90: float, num: int, level: str) -> None:
    assert level_of(errors(spearman, p90, num)) == judge(errors(spearman, p90, num)).level == level


@pytest.mark.parametrize(
    ("spearman", "p90", "num", "level"),
    [
        (0.975, 6.0, 10, "fit"),
        (0.974, 6.0, 50, "care"),
        (0.99, 6.1, 50, "care"),
        (0.99, 1.0, 9, "care"),
        (0.85, 25.0, 50, "care"),
        (0.84, 5.0, 50, "unfit"),
    ],
)
def test_errors_that_chose_the_predictor_need_a_margin(spearman: float, p90: float, num: int, level: str) -> None:
    verdict = judge(errors(spearman, p90, num, how="leave_one_out"))
    assert verdict.level == level and "left out in turn" in verdict.reasons[0] and "left out in turn" in verdict.rule
    said = any("these errors also chose the predictor" in reason for reason in verdict.reasons)
    assert said == (level == "care" and num >= 10 and p90 <= 12)


@pytest.mark.parametrize(
    ("num", "median", "level", "words"),
    [
        (3, None, "unjudged", "Of fewer than 5 the errors themselves are uncertain without a limit"),
        (4, None, "unjudged", "4 networks are too few to be sure of the order; 10 are needed"),
        (5, (0.5, 9.9), "care", "5 networks are too few to be sure of the order; 10 are needed"),
        (5, (0.5, 10.1), "unfit", "The median error may be as large as 10 %; usable is 10 %"),
        (9, (0.5, 14.0), "unfit", "The median error may be as large as 14 %"),
        (9, None, "care", "9 networks are too few"),
        (10, (0.5, 14.0), "fit", "median error 2.0 % (90 % interval 0.5 to 14.0 %)"),
    ],
)
def test_few_networks_are_judged_by_what_they_cannot_exclude(
    num: int, median: tuple[float, float] | None, level: str, words: str
) -> None:
    verdict = judge(errors(1.0, 6.0, num, median=median))
    assert verdict.level == level and words in " ".join(verdict.reasons)
    assert (num < 10) == any("--budget 10" in step for step in verdict.next_steps)


def test_few_networks_that_are_far_off_are_not_fit() -> None:
    assert level_of(errors(1.0, 30.0, 3)) == level_of(errors(0.5, 3.0, 3)) == "unfit"
    assert "of 5 to 9 U-Nets a median error of at most 10 %" in RULE


def test_the_medians_interval_is_the_narrowest_that_holds_in_nine_of_ten_cases() -> None:
    """Of N draws the number below the median is binomial: the chance that an order statistic misses it, by summing."""
    for num in range(1, 40):
        found = median_interval(np.random.default_rng(num).permutation(num) + 1.0)  # the values are their ranks
        misses = [sum(comb(num, below) for below in range(rank)) / 2**num for rank in range(num + 1)]
        ranks = [rank for rank in range(1, num + 1) if misses[rank] <= 0.05]
        assert found == ((ranks[-1], num + 1 - ranks[-1]) if ranks else None), num
    assert median_interval([]) is None and median_interval([1.0] * 4) is None and median_interval([1.0] * 5) == (1, 1)


def test_words_follow_the_figures() -> None:
    assert judge(None).level == "unjudged" and "--budget" in judge(None).next_steps[0]
    good = judge(errors(0.99, 5.0), 4.2, 1.0)
    assert any("less than 4 % are ties" in r for r in good.reasons) and any("+-1.0 %" in r for r in good.reasons)
    noisy = judge(errors(0.9, 20.0, coverage=0.6), 20.0, 11.0, biased=["x"], extrapolating_pct=50)
    text = " ".join([*noisy.reasons, *noisy.next_steps])
    assert "measure longer" in text and "too narrow" in text and "50 % of the candidates" in text and "x" in text
    assert "noise floor is not known" in " ".join(judge(errors(0.9, 20.0)).reasons)


@given(spread=st.floats(0.005, 0.2), bias=st.floats(-0.5, 0.5))
def test_beyond_a_tie_nine_of_ten_orders_are_right(spread: float, bias: float) -> None:
    rng = np.random.default_rng(0)
    drawn = bias + spread * rng.standard_normal((2, 20_000))
    tie = tie_of(drawn.ravel())
    assert tie is not None
    # Two networks whose predictions differ by just the tie: the order of the truths is right 9 times in 10.
    truth = drawn[1] - drawn[0] - np.log1p(tie / 100)
    assert np.mean(truth < 0) == pytest.approx(0.9, abs=0.01)
    assert tie_of([0.1]) is None


def test_a_tie_allows_for_its_own_uncertainty() -> None:
    """Of few errors their spread is uncertain too: over many draws of five the orders are right nine times in ten."""
    rng = np.random.default_rng(3)
    right = []
    for _ in range(4000):
        tie = tie_of(0.05 * rng.standard_normal(5))
        assert tie is not None
        first, second = 0.05 * rng.standard_normal(2)
        right.append(second - first < np.log1p(tie / 100))
    assert np.mean(right) == pytest.approx(0.9, abs=0.015)


def test_repeatability_is_that_of_our_own_measurements() -> None:
    exact = measurement("base", 2.0)
    assert repeatability_of(exact) == 0.0
    assert repeatability_of(exact.model_copy(update={"ci95_ms": (1.9, 2.1)})) == pytest.approx(5.0)


def _networks(seed: int, num: int = 60) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    return [{"E1": "abcd"[rng.integers(4)], "D1": "xyz"[rng.integers(3)], "deep": "none"} for _ in range(num)]


def test_a_planted_error_is_found_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    networks = _networks(1)
    noise = 0.01 * rng.standard_normal(len(networks))
    planted = noise + np.array([0.10 * (n["E1"] == "a") for n in networks])
    found = option_errors(networks, planted)
    assert {e.stage for e in found} == {"E1", "D1"}
    # What is left after the mean over the four options is taken out: 10 % for a, against 0 for the other three.
    effect = {(e.stage, e.option): e for e in found}
    assert effect["E1", "a"].error_pct - effect["E1", "b"].error_pct == pytest.approx(10.5, abs=1.5)
    assert [e.option for e in found if e.is_certain and e.error_pct > 0] == ["a"]
    assert biased(found)[0].startswith("networks with a at E1 are predicted ") and "too high" in biased(found)[0]
    assert biased(found)[0].endswith("against the average of E1's options")
    # An error that all share is in no effect: it is said by itself.
    shifted = option_errors(networks, planted + 0.3)
    assert [e.error_pct for e in shifted] == pytest.approx([e.error_pct for e in found])
    all_of_them, half = common_error(list(planted + 0.3)) or (0.0, 0.0)
    assert all_of_them == pytest.approx(100 * np.expm1(np.mean(planted + 0.3))) and 0 < half < 5
    assert "together are predicted 38 % too high" in (common(list(planted + 0.3)) or "")
    assert common(list(noise)) is None and common([0.5, 0.5]) is None
    assert not any(e.is_certain for e in option_errors(networks, noise))
    assert option_errors(networks[:2], [0.1, 0.2]) == [] and option_errors([], []) == []


def test_effects_are_those_of_the_dense_formula() -> None:
    """With the variances that were found, the posterior by inverting the covariance of the errors."""
    networks = _networks(2, 30)
    rng = np.random.default_rng(2)
    target = np.array([0.05 * (n["D1"] == "z") for n in networks]) + 0.02 * rng.standard_normal(30)
    found = option_errors(networks, list(target))
    design = np.array([[float(n[e.stage] == e.option) for e in found] for n in networks])
    design -= design.mean(0)
    centred = target - target.mean()
    best = max(
        (
            -0.5 * 29 * np.log(quadratic) - 0.5 * np.linalg.slogdet(np.eye(30) + ratio * design @ design.T)[1],
            ratio,
            quadratic / 29,
        )
        for ratio in np.geomspace(1e-4, 1e2, 60)
        for quadratic in [centred @ np.linalg.solve(np.eye(30) + ratio * design @ design.T, centred)]
    )
    _, ratio, noise = best
    gain = ratio * design.T @ np.linalg.inv(np.eye(30) + ratio * design @ design.T)
    mean = gain @ centred
    variance = noise * np.diag(ratio * np.eye(len(found)) - ratio * gain @ design)
    assert [e.error_pct for e in found] == pytest.approx(100 * np.expm1(mean))
    assert [e.std_pct for e in found] == pytest.approx(100 * np.exp(mean) * np.sqrt(variance))


def test_an_npu_profile_is_not_judged_on_candidates() -> None:
    verdict = judge_npu(NpuProfile.load("sm8750-w8a16").errors)
    assert verdict.level == "unjudged" and any("no candidate was measured" in r for r in verdict.reasons)
    assert any("90th percentile" in r for r in verdict.reasons) and any("published" in r for r in verdict.reasons)
    # By the statement's own scatter, not by a constant.
    scatter = [np.log1p(e.error_pct / 100) for e in NpuProfile.load("sm8750-w8a16").errors.without_diffusion]
    assert any(f"less than {tie_of(scatter):.0f} % are ties" in reason for reason in verdict.reasons)
