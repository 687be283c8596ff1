"""Rank agreement of brief and long scores, against brute force and published figures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from nas.fidelity.proxy_record import Measured, Proxy, ProxyCandidate, advice, agreement, warnings


def proxy(columns: dict[int, list[float | None]], long_steps: int, search_steps: int = 0) -> Proxy:
    """Latent errors by steps; noise errors are their negatives plus ten."""
    candidates = []
    for row, errors in enumerate(zip(*columns.values(), strict=True)):
        measured = [
            Measured(steps=n, latent_error=e, noise_error=10 - e, tafid=1.0)
            if e is not None
            else Measured(steps=n, reason="diverged")
            for n, e in zip(columns, errors, strict=True)
        ]
        candidates.append(ProxyCandidate(candidate=f"c{row}", num_params=1, latency_ms=1.0, measured=tuple(measured)))
    return Proxy(
        key="k",
        steps=tuple(sorted(set(columns) - {0, long_steps})),
        long_steps=long_steps,
        search_steps=search_steps,
        batch_size=4,
        learning_rate=1e-3,
        num_samples=8,
        candidates=tuple(candidates),
    )


def tau(x: list[float], y: list[float]) -> float:
    """Kendall's tau without ties, by all pairs."""
    signs = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    return float(np.mean(signs))


def rho(x: list[float], y: list[float]) -> float:
    """Spearman's rho without ties: 1 - 6 sum d^2 / (n^3 - n)."""
    d = np.argsort(np.argsort(x)) - np.argsort(np.argsort(y))
    return float(1 - 6 * (d**2).sum() / (len(x) ** 3 - len(x)))


def test_ranks_are_those_of_all_pairs():
    rng = np.random.default_rng(3)
    long, brief, raw = (list(rng.permutation(np.arange(1.0, 13.0))) for _ in range(3))
    found = proxy({0: raw, 5: brief, 50: long}, 50)
    for steps, column in ((0, raw), (5, brief)):
        each = agreement(found, steps)
        assert each.num == 12
        assert each.kendall == pytest.approx(tau(column, long)) and each.spearman == pytest.approx(rho(column, long))
        # The noise error was made to fall where the latent error grows.
        assert agreement(found, steps, "noise_error").kendall == pytest.approx(tau(column, long))
        assert agreement(found, steps, "noise_error", "latent_error").kendall == pytest.approx(-tau(column, long))
    assert agreement(found, 0, "tafid").kendall is None  # all equal


def test_the_interval_is_that_of_fieller_hartley_and_pearson():
    # n = 16 and tau = 0.8: atanh 1.0986, half width 1.96 sqrt(0.437 / 12) = 0.3740.
    brief = list(range(16))
    long = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 15, 14, 13, 12]
    wrong = sum(1 for i, j in combinations(range(16), 2) if long[i] > long[j])
    assert wrong == 12
    each = agreement(proxy({0: [1.0] * 16, 5: [float(v) for v in brief], 50: [float(v) for v in long]}, 50), 5)
    assert each.kendall == pytest.approx(0.8)
    assert (each.low, each.high) == (pytest.approx(0.6198, abs=1e-3), pytest.approx(0.9000, abs=1e-3))
    four = agreement(proxy({0: [1, 2, 3, 4], 5: [1, 2, 3, 4], 50: [2, 1, 3, 4]}, 50), 5)
    assert four.low is None and four.kendall == pytest.approx(2 / 3)


def test_failed_and_unfinished_candidates_are_left_out():
    found = proxy({0: [4, 1, 2, 3, 5], 5: [1, None, 2, 3, 4], 50: [1, 9, 2, 3, None]}, 50)
    assert len(found.complete) == 5 and agreement(found, 5).num == 3 and agreement(found, 0).num == 4
    last = found.candidates[-1]
    cut = last.model_copy(update={"measured": last.measured[:2]})
    unfinished = found.model_copy(update={"candidates": (*found.candidates[:-1], cut)})
    assert len(unfinished.complete) == 4 and agreement(unfinished, 0).num == 4
    assert agreement(proxy({0: [1, 2], 5: [1, 2], 50: [1, 2]}, 50), 5).kendall is None


def test_warnings_name_the_score_and_say_what_to_do():
    long = [1.0, 2, 3, 4, 5]
    found = proxy({0: [2.0, 1, 4, 3, 5], 5: long, 50: long}, 50)  # tau of raw errors: 0.6
    (warning,) = warnings(found)
    assert "as they are assembled and after 50 steps is 0.60, below 0.7" in warning
    assert warning.endswith("The front of this run is made of them.")
    assert "search.distill_steps=5" in advice(found)
    # A run whose front is made of errors after those steps is not told so.
    distilled = found.model_copy(update={"search_steps": 5})
    assert "front of this run" not in warnings(distilled)[0]
    assert advice(distilled).startswith("Errors after 5 steps, which the front is made of")
    bad = proxy({0: [5.0, 4, 3, 2, 1], 5: [5.0, 4, 3, 2, 1], 50: long}, 50)
    assert len(warnings(bad)) == 2 and advice(bad).startswith("None of the scores")
    assert warnings(proxy({0: long, 5: long, 50: long}, 50)) == []
