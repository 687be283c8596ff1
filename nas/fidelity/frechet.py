"""The Frechet distance between two Gaussians, and the Gaussian of a set of features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.fidelity.errors import FidelityError

Array = npt.NDArray[np.float64]


def gaussian_statistics(features: npt.ArrayLike) -> tuple[Array, Array]:
    """Mean (d,) and unbiased covariance (d, d) of features (N, d), in float64.

    Raises:
        FidelityError: a feature is not finite.
        ValueError: fewer than two samples, or not a matrix.
    """
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features have shape {x.shape}; needed is (N, d) with N >= 2")
    if not np.isfinite(x).all():
        raise FidelityError("tafid", f"{int((~np.isfinite(x)).sum())} of {x.size} feature values")
    mean = x.mean(axis=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_distance(mu1: npt.ArrayLike, sigma1: npt.ArrayLike, mu2: npt.ArrayLike, sigma2: npt.ArrayLike) -> float:
    """Squared Frechet (2-Wasserstein) distance between N(mu1, sigma1) and N(mu2, sigma2).

    |mu1 - mu2|^2 + tr(sigma1) + tr(sigma2) - 2 tr((sigma1 sigma2)^(1/2))   (Dowson and Landau 1982;
    Heusel et al. 2017, equation 6). The last trace is the nuclear norm of sigma1^(1/2) sigma2^(1/2):
    unlike a matrix square root of the product it needs no complex numbers and stays accurate where a
    covariance is singular, which N <= d samples always make it. O(d^3).

    Raises:
        FidelityError: an input is not finite.
        ValueError: shapes do not fit, or a covariance has a clearly negative eigenvalue.
    """
    m1, m2, s1, s2 = (np.asarray(a, dtype=np.float64) for a in (mu1, mu2, sigma1, sigma2))
    if m1.shape != m2.shape or m1.ndim != 1 or s1.shape != (m1.size, m1.size) or s2.shape != s1.shape:
        raise ValueError(f"shapes do not fit: means {m1.shape}, {m2.shape}, covariances {s1.shape}, {s2.shape}")
    if not all(np.isfinite(a).all() for a in (m1, m2, s1, s2)):
        raise FidelityError("tafid", "a mean or covariance")
    cross = np.linalg.svd(_square_root(s1) @ _square_root(s2), compute_uv=False).sum()
    distance = float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2.0 * cross)
    return max(distance, 0.0)  # rounding leaves about -1e-15 for equal Gaussians


def feature_distance(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Frechet distance between the Gaussians of two feature sets (N, d) and (M, d).

    With fewer samples than dimensions the cross term is taken from the samples: with sigma1 = A'A and sigma2 = B'B, A
    and B centred and scaled, tr((sigma1 sigma2)^(1/2)) is the nuclear norm of A B', an N x M matrix. O(N M d) instead
    of O(d^3), and exact.

    Raises:
        FidelityError: a feature is not finite.
        ValueError: fewer than two samples, or shapes that do not fit.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or max(len(x), len(y)) >= x.shape[1]:
        return frechet_distance(*gaussian_statistics(x), *gaussian_statistics(y))
    (m1, a), (m2, b) = _centred(x), _centred(y)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return max(float(((m1 - m2) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2.0 * cross), 0.0)


def _centred(x: Array) -> tuple[Array, Array]:
    """Mean (d,) and the factor A (N, d) of the unbiased covariance A'A."""
    if len(x) < 2:
        raise ValueError(f"features have shape {x.shape}; needed is (N, d) with N >= 2")
    if not np.isfinite(x).all():
        raise FidelityError("tafid", f"{int((~np.isfinite(x)).sum())} of {x.size} feature values")
    mean = x.mean(axis=0)
    return mean, (x - mean) / np.sqrt(len(x) - 1)


def _square_root(sigma: Array) -> Array:
    values, vectors = np.linalg.eigh((sigma + sigma.T) / 2)
    if values[0] < -1e-6 * max(values[-1], 1e-300):
        raise ValueError(f"a covariance has the negative eigenvalue {values[0]:.3g}")
    return np.asarray((vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T)
