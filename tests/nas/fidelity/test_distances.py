"""Distances of feature sets against closed forms, brute force and the published packages' own code."""

import numpy as np
import pytest
from scipy import linalg

from nas.fidelity.errors import FidelityError
from nas.fidelity.frechet import feature_distance, frechet_distance, gaussian_statistics
from nas.fidelity.small_samples import frechet_at_infinity, kernel_distance
from nas.fidelity.uncertainty import jackknife, mean_interval, paired_difference
from tests.nas.fidelity.conftest import published_functions, published_module


def eigenvalue_form(x, y):
    """tr((s1 s2)^(1/2)) as the sum of the roots of the product's eigenvalues, which are real and not negative."""
    (m1, s1), (m2, s2) = ((a.mean(0), np.atleast_2d(np.cov(a, rowvar=False))) for a in (x, y))
    roots = np.sqrt(np.clip(linalg.eigvals(s1 @ s2).real, 0, None)).sum()
    return ((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * roots


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 6), (40, 30, 64), (64, 65, 64), (12, 300, 40), (2, 3, 5)])
def test_agrees_with_the_eigenvalue_form_also_with_fewer_samples_than_dimensions(n, m, d):
    rng = np.random.default_rng(d)
    mix = rng.normal(size=(d, d)) / d**0.5
    x, y = rng.normal(size=(n, d)) @ mix, 0.3 + 1.4 * rng.normal(size=(m, d)) @ mix
    # The eigenvalues of a singular product are exact to 1e-16 of the largest only, their roots to 1e-8.
    assert feature_distance(x, y) == pytest.approx(eigenvalue_form(x, y), rel=1e-6)
    through_covariances = frechet_distance(*gaussian_statistics(x), *gaussian_statistics(y))
    assert feature_distance(x, y) == pytest.approx(through_covariances, rel=1e-7)


@pytest.mark.parametrize(("n", "d"), [(300, 8), (500, 64)])
def test_agrees_with_pytorch_fid(n, d):
    (published,) = published_functions("pytorch_fid", "fid_score.py", "calculate_frechet_distance", linalg=linalg)
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, d)), 0.2 + rng.normal(size=(n, d)) @ (np.eye(d) + 0.1 * rng.normal(size=(d, d)))
    try:
        expected = published(*gaussian_statistics(x), *gaussian_statistics(y))
    except (TypeError, ValueError):  # scipy's sqrtm has lost the argument that it uses
        expected = published_old(published, x, y)
    assert feature_distance(x, y) == pytest.approx(float(np.real(expected)), rel=1e-6)


def published_old(published, x, y):
    """The same code with the matrix square root of a scipy that returns an error estimate too."""

    class Linalg:
        @staticmethod
        def sqrtm(a, disp=True):
            return linalg.sqrtm(a) if disp else (linalg.sqrtm(a), 0.0)

    published.__globals__["linalg"] = Linalg
    return published(*gaussian_statistics(x), *gaussian_statistics(y))


def test_non_finite_features_are_named_with_few_samples_too():
    x = np.ones((4, 9))
    x[1, 0] = np.inf
    with pytest.raises(FidelityError, match="1 of 36"):
        feature_distance(x, np.ones((4, 9)))
    with pytest.raises(ValueError, match="N >= 2"):
        feature_distance(np.ones((1, 9)), np.ones((4, 9)))


def gaussians(rng, n, d, correlation, scale):
    """Pairs of one distribution's draws, the second scaled: true Frechet distance d (scale - 1)^2."""
    x = rng.normal(size=(n, d))
    return x, scale * (correlation * x + np.sqrt(1 - correlation**2) * rng.normal(size=(n, d)))


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_the_bias_of_few_samples_is_taken_off(scale):
    """Over draws, plain distances are far too high; extrapolated and jackknifed ones have the true mean."""
    rng, d, n = np.random.default_rng(0), 16, 96
    true, plain, line, jack = d * (scale - 1) ** 2, [], [], []
    for seed in range(12):
        x, y = gaussians(rng, n, d, 0.9, scale)
        plain.append(feature_distance(x, y))
        line.append(frechet_at_infinity(x, y, seed=seed).value)
        jack.append(jackknife(lambda rows, x=x, y=y: feature_distance(x[rows], y[rows]), n).corrected)
    bias = np.mean(plain) - true
    assert bias > 0.25
    for found in (line, jack):
        assert abs(np.mean(found) - true) < 0.25 * bias


def test_extrapolation_is_exact_on_a_straight_line_and_refuses_too_few():
    rng = np.random.default_rng(3)
    x, y = gaussians(rng, 64, 4, 0.5, 1.5)
    found = frechet_at_infinity(x, y)
    assert found.sizes[0] == 16 and found.sizes[-1] == 64
    assert found.distances[-1] == pytest.approx(feature_distance(x, y))
    slope = np.polyfit(1 / np.array(found.sizes), found.distances, 1)
    assert found.value == pytest.approx(slope[1])
    assert frechet_at_infinity(x[:15], y[:15]) is None
    assert frechet_at_infinity(np.ones((31, 16)), np.ones((31, 16))) is None


@pytest.mark.parametrize("paired", [True, False])
def test_kernel_distance_agrees_with_sums_over_all_pairs(paired):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(9, 3)), 0.5 + rng.normal(size=(9, 3))
    total = count = cross = 0.0
    for i in range(9):
        for j in range(9):
            if i != j:
                total += (x[i] @ x[j] / 3 + 1) ** 3 + (y[i] @ y[j] / 3 + 1) ** 3
            if i != j or not paired:
                cross, count = cross + (x[i] @ y[j] / 3 + 1) ** 3, count + 1
    assert kernel_distance(x, y, paired).value == pytest.approx(total / 72 - 2 * cross / count)


def test_kernel_distance_agrees_with_torch_fidelity():
    helpers = published_module("torch_fidelity", "helpers")
    mmd2, kernel = published_functions(
        "torch_fidelity", "metric_kid.py", "mmd2", "kernel_poly", vassert=helpers.vassert, get_kwarg=helpers.get_kwarg
    )
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(50, 20)), 0.3 + rng.normal(size=(50, 20))
    how = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    kernels = [kernel(a, b, **how) for a, b in ((x, x), (x, y), (y, y))]
    for paired, name in ((False, "unbiased"), (True, "u-statistic")):
        assert kernel_distance(x, y, paired).value == pytest.approx(mmd2(*kernels, mmd_est=name), rel=1e-9)


def test_kernel_distance_has_no_bias():
    rng = np.random.default_rng(7)
    values = [kernel_distance(*gaussians(rng, 24, 8, 0.5, 1.0)).value for _ in range(60)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 60**0.5 and min(values) < 0


def test_jackknife_of_a_mean_is_its_standard_error_and_corrects_a_variance():
    x = np.random.default_rng(8).gamma(2.0, size=40)
    whole = jackknife(lambda rows: float(x[rows].mean()), 40, groups=20)
    # A statistic that is a mean of group means: the groups' standard error, exactly.
    groups = np.array([x[g::20].mean() for g in range(20)])
    assert whole.standard_error == pytest.approx(groups.std(ddof=1) / 20**0.5)
    assert whole.corrected == pytest.approx(x.mean())
    # One sample a group: the plain variance's bias (Quenouille 1956) is taken off exactly.
    one = jackknife(lambda rows: float(x[rows][:20].var()), 20, groups=20)
    assert one.corrected != pytest.approx(x[:20].var(ddof=1))  # at most half as many groups as samples
    with pytest.raises(ValueError, match="3 samples"):
        jackknife(lambda rows: 0.0, 3)


def test_intervals_cover_what_they_should():
    """Nominal 95 %: of 300 draws the true mean is missed by about 15; by chance by 5 to 28 (4 standard errors)."""
    rng = np.random.default_rng(9)
    missed = paired = 0
    for _ in range(300):
        x = 3 + rng.normal(size=12)
        low, high = mean_interval(x)
        missed += not low <= 3 <= high
        _, (low, high) = paired_difference(x, x - 0.5 + 0.1 * rng.normal(size=12))
        paired += not low <= 0.5 <= high
    assert 2 <= missed <= 30 and 2 <= paired <= 30
    assert mean_interval([1.0]) is None and mean_interval([0.0, 0.1, 0.0])[0] == 0.0
    with pytest.raises(ValueError, match="shapes"):
        paired_difference([1.0, 2.0], [1.0])


def test_the_interval_of_the_frechet_distance_covers_its_expectation():
    rng = np.random.default_rng(10)
    draws = [gaussians(rng, 48, 3, 0.6, 1.4) for _ in range(120)]
    expected = np.mean([feature_distance(x, y) for x, y in draws])
    inside = 0
    for x, y in draws:
        low, high = jackknife(lambda rows, x=x, y=y: feature_distance(x[rows], y[rows]), 48).interval()
        inside += low <= expected <= high
    assert inside / 120 > 0.85
