"""The bias of small samples: the Frechet distance extrapolated to infinitely many, and an unbiased kernel distance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nas.fidelity.frechet import feature_distance
from nas.fidelity.uncertainty import Interval, jackknife

Floats = npt.NDArray[np.float64]


class Extrapolated(NamedTuple):
    """`value` is the intercept of `distances` over 1 / `sizes`; it may be slightly negative for equal distributions."""

    value: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_at_infinity(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    paired: bool = True,
    num_sizes: int = 8,
    repeats: int = 4,
    seed: int = 0,
) -> Extrapolated | None:
    """Frechet distance at infinite N: a straight line in 1 / N through those of subsets (Chong and Forsyth 2020).

    Args:
        first, second: features (N, d), row i of both from the same noise where `paired`: subsets keep pairs together.
        num_sizes: subset sizes, evenly in 1 / N from a quarter of all (but more than d) to all.
        repeats: random subsets a size, averaged.

    Returns:
        None where the samples are too few: N < 2 d (or 16). With no more samples than dimensions the distance
        does not follow 1 / N.

    Raises:
        FidelityError: a feature is not finite.
        ValueError: other numbers of samples.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"features of shapes {x.shape} and {y.shape}; needed are two of (N, d)")
    num, d = x.shape
    if num < max(2 * d, 16):
        return None
    rng = np.random.default_rng(seed)
    least = max(num // 4, d + 4)
    sizes = np.unique((1 / np.linspace(1 / num, 1 / least, num_sizes)).round().astype(int))
    distances = []
    for size in sizes:
        found = []
        for _ in range(1 if size == num else repeats):
            rows = rng.permutation(num)[:size]
            others = rows if paired else rng.permutation(num)[:size]
            found.append(feature_distance(x[rows], y[others]))
        distances.append(float(np.mean(found)))
    _, intercept = np.polyfit(1 / sizes, distances, 1)
    return Extrapolated(float(intercept), tuple(int(n) for n in sizes), tuple(distances))


class KernelDistance(NamedTuple):
    """Unbiased, so that equal distributions give values around 0, negative ones too."""

    value: float
    interval: Interval


def kernel_distance(first: npt.ArrayLike, second: npt.ArrayLike, paired: bool = True) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel (x'y / d + 1)^3: KID (Binkowski et al. 2018), no bias at any N.

    A U-statistic: each mean is over pairs of different samples. Where row i of both sides comes from the same noise
    (`paired`), x_i and y_i depend on each other and their pair is left out of the cross term too. The interval is the
    jackknife's. O(N^2 d).

    Raises:
        ValueError: shapes do not fit, or fewer than four samples.
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 2 or len(x) < 4:
        raise ValueError(f"features of shapes {x.shape} and {y.shape}; needed are two of (N, d) with N >= 4")
    d = x.shape[1]
    within_x, within_y, across = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    for kernel in (within_x, within_y, *((across,) if paired else ())):
        np.fill_diagonal(kernel, 0.0)

    def statistic(rows: npt.NDArray[np.intp]) -> float:
        n, at = len(rows), np.ix_(rows, rows)
        within = float(within_x[at].sum() + within_y[at].sum()) / (n * (n - 1))
        return within - 2 * float(across[at].sum()) / (n * (n - 1) if paired else n * n)

    found = jackknife(statistic, len(x))
    return KernelDistance(found.value, found.interval())
