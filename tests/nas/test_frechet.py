import copy as copying

import numpy as np
import pytest

from nas.fidelity.errors import FidelityError
from nas.fidelity.frechet import feature_distance, frechet_distance, gaussian_statistics


def random_gaussian(rng, d, rank=None):
    a = rng.normal(size=(d, rank or d))
    return rng.normal(size=d), a @ a.T / d


def test_one_dimension_closed_form():
    for m1, s1, m2, s2 in [(0.0, 1.0, 0.0, 1.0), (1.0, 2.0, -3.0, 0.5), (0.0, 0.0, 2.0, 3.0)]:
        expected = (m1 - m2) ** 2 + (s1 - s2) ** 2
        assert frechet_distance([m1], [[s1**2]], [m2], [[s2**2]]) == pytest.approx(expected, abs=1e-12)


def test_diagonal_closed_form():
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 7))
    s1, s2 = rng.uniform(0.1, 3, size=(2, 7))
    expected = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert frechet_distance(m1, np.diag(s1**2), m2, np.diag(s2**2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [2, 5, 32])
def test_agrees_with_scipy_matrix_square_root(d):
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(d)
    for _ in range(5):
        (m1, s1), (m2, s2) = random_gaussian(rng, d), random_gaussian(rng, d)
        root = np.real(linalg.sqrtm(s1 @ s2))
        expected = ((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
        assert frechet_distance(m1, s1, m2, s2) == pytest.approx(expected, rel=1e-6)


def test_singular_covariances_keep_their_accuracy():
    # Two orthogonal rank-one covariances: the cross term is exactly zero.
    u, v = np.eye(6)[0], np.eye(6)[1]
    s1, s2 = np.outer(u, u), 4 * np.outer(v, v)
    assert frechet_distance(np.zeros(6), s1, np.zeros(6), s2) == pytest.approx(5.0, abs=1e-10)
    rng = np.random.default_rng(3)
    mean, low_rank = random_gaussian(rng, 30, rank=4)
    assert frechet_distance(mean, low_rank, mean, low_rank) == pytest.approx(0.0, abs=1e-10)


def test_symmetric_and_independent_of_sample_order():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 8)), 0.5 + 1.5 * rng.normal(size=(150, 8))
    value = feature_distance(x, y)
    assert feature_distance(y, x) == pytest.approx(value, rel=1e-10)
    assert feature_distance(rng.permutation(x), rng.permutation(y)) == pytest.approx(value, rel=1e-10)
    assert feature_distance(x, rng.permutation(x)) == pytest.approx(0.0, abs=1e-10)


def test_grows_with_corruption():
    rng = np.random.default_rng(2)
    x, direction = rng.normal(size=(400, 8)), rng.normal(size=(400, 8))
    noise = [feature_distance(x, x + level * direction) for level in (0, 0.1, 0.3, 0.6, 1.0)]
    shift = [feature_distance(x, x + level) for level in (0, 0.1, 0.3, 0.6, 1.0)]
    shrink = [feature_distance(x, x * (1 - level)) for level in (0, 0.1, 0.3, 0.6, 0.9)]
    for values in (noise, shift, shrink):
        assert np.all(np.diff(values) > 0)
    assert shift[-1] == pytest.approx(8.0, rel=1e-9)


def test_statistics_agree_with_numpy():
    x = np.random.default_rng(4).normal(size=(50, 5)).astype(np.float32)
    mean, covariance = gaussian_statistics(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-10)


def test_bad_inputs_are_named():
    x = np.ones((4, 2))
    x[1, 0] = np.nan
    with pytest.raises(FidelityError, match=r"tafid is not finite: 1 of 8") as caught:
        gaussian_statistics(x)
    copy = copying.copy(caught.value)  # uses __reduce__, as crossing to another process does
    assert (copy.measure, str(copy)) == ("tafid", str(caught.value))
    with pytest.raises(ValueError, match="N >= 2"):
        gaussian_statistics(np.ones((1, 3)))
    with pytest.raises(ValueError, match="shapes"):
        frechet_distance([0, 0], np.eye(2), [0], np.eye(1))
    with pytest.raises(ValueError, match="negative eigenvalue"):
        frechet_distance([0, 0], np.diag([1.0, -1.0]), [0, 0], np.eye(2))
