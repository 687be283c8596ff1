"""Picks against fronts whose knee and extremes are known in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.picks import choose, knee, load_picks, save_picks
from nas.search.store import CandidateRecord
from search_spaces.errors import UserError


def record(name, error, latency_ms, num_params, outcome="done"):
    return CandidateRecord(
        candidate=name,
        options={"E1": name},
        vector=(0,),
        outcome=outcome,
        latency_ms=latency_ms,
        num_params=num_params,
        num_macs=7,
        metrics={"latent_error": error},
        trial=name,
    )


def test_knee_of_a_spherical_front_is_its_middle():
    # Octant of the unit sphere around (1, 1, 1): utopia is the origin, the middle 1 - 1/sqrt(3) in each objective.
    angles = np.linspace(0, np.pi / 2, 31)
    theta, phi = (a.ravel() for a in np.meshgrid(angles, angles))
    sphere = 1 - np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=1)
    middle = np.full((1, 3), 1 - 1 / np.sqrt(3))
    values = np.vstack([sphere, middle])
    assert knee(values) == len(sphere)
    # Units do not matter.
    assert knee(values * [1e-3, 40, 3e8] + [2, 5, 1e6]) == len(sphere)


def test_knee_of_a_line_and_of_one_point():
    x = np.linspace(0, 1, 11)
    assert knee(np.stack([x, 1 - x], axis=1)) == 5
    assert knee([[3.0, 4.0, 5.0]]) == 0
    assert knee([[3.0, 1.0], [3.0, 0.0]]) == 1


RECORDS = [
    record("teacher", 0.0, 10.0, 1000),
    record("middle", 0.05, 5.0, 500),
    record("quick", 0.4, 2.0, 450),
    record("small", 0.45, 6.0, 200),
    record("useless", 3.0, 1.0, 100),
    record("dominated", 0.4, 6.0, 600),
    record("broken", 0.0, 0.1, 1, outcome="failed"),
]


def test_picks_of_a_known_front():
    picks = choose(RECORDS)
    assert {name: pick.candidate for name, pick in picks.items()} == {
        "fastest": "quick",
        "smallest": "small",
        "prime": "middle",
    }
    assert "at most 0.5" in picks["fastest"].rule
    assert picks["prime"].latent_error == 0.05 and picks["prime"].num_macs == 7


def test_the_error_limit_can_be_moved():
    assert choose(RECORDS, max_error=10)["fastest"].candidate == "useless"
    strict = choose(RECORDS, max_error=-1)
    # Nothing is admissible: the more faithful half of the front of five, and the rule says so.
    assert strict["fastest"].candidate == "quick" and "more faithful half" in strict["fastest"].rule


@pytest.mark.parametrize(
    ("budget", "candidate"),
    [
        ({"max_latency_ms": 5}, "middle"),
        ({"max_latency_ms": 4.99}, "quick"),
        ({"max_params": 460}, "quick"),
        ({"max_latency_ms": 1.5, "max_params": 100}, "useless"),
        ({"max_latency_ms": 100}, "teacher"),
    ],
)
def test_a_budget_takes_the_most_faithful_within(budget, candidate):
    assert choose(RECORDS, **budget)["budget"].candidate == candidate


@given(st.floats(0.5, 12), st.integers(50, 1200))
def test_budget_pick_is_the_best_by_brute_force(max_latency_ms, max_params):
    within = [
        r for r in RECORDS if r.outcome == "done" and r.latency_ms <= max_latency_ms and r.num_params <= max_params
    ]
    if within:
        best = min(within, key=lambda r: (r.metrics["latent_error"], r.latency_ms, r.num_params))
        assert choose(RECORDS, max_latency_ms, max_params)["budget"].candidate == best.candidate
    else:
        with pytest.raises(UserError):
            choose(RECORDS, max_latency_ms, max_params)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"max_latency_ms": 0.5}, ["0.5", "1 to 10 ms"]),
        ({"max_params": 50}, ["50", "100 to 1,000"]),
        ({"max_latency_ms": 2.0, "max_params": 99}, ["99", "100 to 1,000"]),
    ],
)
def test_an_impossible_budget_names_the_reachable_range(budget, words):
    with pytest.raises(UserError) as error:
        choose(RECORDS, **budget)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_two_budgets_that_only_fail_together():
    with pytest.raises(UserError, match=r"within the latency they have 450 parameters or more.*6 ms or more"):
        choose([r for r in RECORDS if r.candidate != "useless"], max_latency_ms=3, max_params=300)


def test_no_finished_candidate():
    with pytest.raises(UserError, match="nothing can be picked"):
        choose([RECORDS[-1]])


def test_picks_round_trip(tmp_path):
    picks = choose(RECORDS, max_latency_ms=5)
    save_picks(picks, tmp_path / "picks.json")
    assert load_picks(tmp_path / "picks.json") == picks
    (tmp_path / "picks.json").write_text('{"prime": {"candidate": 3}}')
    with pytest.raises(UserError, match="does not hold picks"):
        load_picks(tmp_path / "picks.json")
    with pytest.raises(UserError, match="does not exist"):
        load_picks(tmp_path / "none.json")
