"""Latency of networks on a new device, from a few measurements there and many on other devices.

In logarithms, devices of one family differ by an offset, by how that offset grows with the network's size, and by a
few patterns that the other devices show too. Two Bayesian linear models express this, both with Student-t noise,
because public measurements hold gross errors (one device has rows four times too slow):

* *contrasts*: level of the network over all sources + offset + size + weights on every source's deviation from that
  level + an effect of the runtime path + one of compilation ahead of time;
* *nearest source*: one source's own latency + offset + size + compilation ahead of time, averaged over the sources by
  evidence.

A source that has hardly any of the networks asked for tells their level only: what it would deviate there is filled
in, shrunk towards nothing, and a weight learned where it was measured would carry nothing over.

A device is of the sources' class, near them in offset and slope, or of another: one measurement far off says so. Size
is a line and a smooth deviation from it; networks below 12 ms are taken as noisier, since what overhead decides says
little about large ones.

Each is averaged over its hyperparameters by evidence (Laplace's approximation), the two by geometric mean. Intervals
are scaled by the errors on the sources, each held out in turn: an error shared by a device, and one of each network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student_t

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DEGREES = 2.0  # of freedom of the noise: heavy enough that rows four times too slow move little
_NOISE_SDS = (0.04, 0.08, 0.16)  # rows of one device scatter by 4 to 16 % around another's
# Of the offset, and of the slope per unit of log latency: devices of the sources' class, of another.
_CLASSES = ((0.7, 0.03), (2.0, 0.3))
_CONTRAST_SDS = (0.2, 0.5)
_PATH_SD = 0.05
_AHEAD = ("qnn_context_binary", "precompiled_qnn_onnx")  # compiled before they reach the device; others are on it
_AHEAD_SD = 0.08  # on some devices one way of compiling is faster than on others
_LEAST_ASKED = 0.3  # share of the networks asked for that a source needs for its deviations to count
_RANK, _SHRINKAGE = 3, 0.3  # of the patterns that fill in what a source lacks
_GROSS = 1.2  # log latency: a deviation of threefold is an error or another class of device
_CENTRE = 2.5  # log ms where the size term is zero; the networks asked for lie above
_SMALL_NOISE = 2.0  # below it the noise grows by this share per unit: what overhead decides says little about the rest
_BUMP_SD, _BUMP_WIDTH = 0.03, 1.5  # of a smooth deviation from the line in size
_BUMP_CENTRES = np.arange(-1.0, 7.0)
# Where measurements are chosen: for several sizes of the contrasts at once; for any one the choice hangs on chance.
_CHOICE_CLASS, _CHOICE_SD, _CHOICE_CONTRAST_SDS = (2.0, 0.1), 0.07, (0.1, 0.2, 0.4)


@dataclass(frozen=True)
class Sources:
    """Networks as the source devices see them, in log ms, every source's own offset taken out.

    Attributes:
        level: (N,) median over the sources.
        contrasts: (N, C) deviation from it of each source that has networks asked for; filled in where it lacks others.
        paths: (N, P) indicators of the runtime path.
        ahead: (N, 1) indicator of compilation ahead of time.
    """

    level: Floats
    contrasts: Floats
    paths: Floats
    ahead: Floats

    @classmethod
    def of(cls, log_ms: Floats, paths: Sequence[str], queries: Sequence[int] | Ints = ()) -> Sources:
        """From log latencies (N, S), NaN where missing; every row needs at least one.

        Args:
            log_ms: of the sources.
            paths: (N,) runtime paths.
            queries: rows asked for, if known: sources that have less than 0.3 of them keep no contrast.
        """
        offset = np.zeros(log_ms.shape[1])
        for _ in range(20):
            level = np.nanmedian(log_ms - offset, axis=1)
            offset = np.nanmedian(log_ms - level[:, None], axis=0)
            offset -= offset.mean()
        level = np.nanmedian(log_ms - offset, axis=1)
        contrasts = log_ms - level[:, None] - offset
        contrasts = np.where(np.abs(contrasts) > _GROSS, np.nan, contrasts)
        names = sorted(set(paths))
        indicators = np.array([[path == name for name in names] for path in paths], float)
        ahead = np.array([[path in _AHEAD] for path in paths], float)
        filled = _fill(contrasts)
        if len(queries):
            filled = filled[:, np.isfinite(log_ms[queries]).mean(axis=0) >= _LEAST_ASKED]
        return cls(level, filled, indicators, ahead)


@dataclass(frozen=True)
class LogPrediction:
    """Means and standard deviations (N,) of log ms."""

    mean: Floats
    sd: Floats


@dataclass(frozen=True)
class _Model:
    """log latency = baseline + design @ weights + noise; weights ~ N(0, 1) as the design's columns are scaled."""

    baseline: Floats
    design: Floats
    noise_sd: Floats


def predict(sources: Sources, measured: Ints, log_ms: Floats) -> LogPrediction:
    """Posterior of every network on a device of which some rows were measured.

    Args:
        sources: all networks.
        measured: rows measured on the device.
        log_ms: their log latencies there.
    """
    families = [_contrast_models(sources), _nearest_models(sources)]
    parts = [_averaged(models, measured, log_ms) for models in families if models]
    mean = np.mean([part.mean for part in parts], axis=0)
    spread = np.mean([part.sd**2 + (part.mean - mean) ** 2 for part in parts], axis=0)
    return LogPrediction(mean, np.sqrt(spread))


def choose(sources: Sources, candidates: Sequence[int], queries: Ints, num: int) -> list[int]:
    """Greedy choice of the rows whose measurement leaves the least variance at the rows asked for.

    The share of the variance that is left, averaged over several sizes of the contrasts.

    Args:
        sources: all networks.
        candidates: rows that may be measured.
        queries: rows to be predicted.
        num: how many to choose; all candidates if there are fewer.

    Returns:
        Rows in the order of choice: the first ones are also the choice for a smaller number.

    Source: D-optimal design for Gaussian processes, here for the average variance at the queries (Krause et al., JMLR
    2008, section 3).
    """
    # All networks count as equally noisy here: small ones, which predict worse, show how a device differs in slope.
    designs = [
        _contrast_model(sources, _CHOICE_CLASS, contrast_sd=sd, noise_sd=0.0).design for sd in _CHOICE_CONTRAST_SDS
    ]
    covariances = [design @ design.T for design in designs]
    unknown = [float(covariance[queries, queries].sum()) for covariance in covariances]
    chosen: list[int] = []
    while len(chosen) < min(num, len(candidates)):
        left = np.array([row for row in candidates if row not in chosen], dtype=np.int64)
        gains = [
            (covariance[np.ix_(queries, left)] ** 2).sum(axis=0) / (covariance[left, left] + _CHOICE_SD**2) / total
            for covariance, total in zip(covariances, unknown, strict=True)
        ]
        best = int(left[np.argmax(np.sum(gains, axis=0))])
        chosen.append(best)
        covariances = [
            covariance - np.outer(covariance[:, best], covariance[best]) / (covariance[best, best] + _CHOICE_SD**2)
            for covariance in covariances
        ]
    return chosen


def interval_scale(deviations: Sequence[Floats]) -> float:
    """Factor on predicted standard deviations for 90 % intervals on a new device.

    Errors on one device are nearly one error, so that rows of a device are not exchangeable, but devices are. A
    deviation is taken as the sum of an effect of its device, ~ N(0, a), and one of its row, ~ N(0, b); a and b by
    moments over the devices. A new device's deviation then has variance a (1 + 1 / D) + b, known from D devices:
    Student t with D - 1 degrees of freedom (a little too wide, since b is known from more than D errors).

    Args:
        deviations: per held-out source its errors divided by their predicted standard deviations.

    Returns:
        The factor; 1 with fewer than two sources, from which no spread between devices can be told.

    Source: random effects model (Searle, Casella and McCulloch, Variance Components, 1992, section 3.6).
    """
    rows = [np.asarray(z, float) for z in deviations if len(z) > 1]
    if len(rows) < 2:
        return 1.0
    within = float(np.mean([z.var(ddof=1) for z in rows]))
    # The devices' effects have mean zero: what all sources were off by in common is an error like any other.
    between = max(0.0, float(np.mean([z.mean() ** 2 - within / len(z) for z in rows])))
    variance = between * (1 + 1 / len(rows)) + within
    return float(np.sqrt(variance) * student_t.ppf(0.95, len(rows) - 1) / norm.ppf(0.95))


def _contrast_model(sources: Sources, class_sds: tuple[float, float], contrast_sd: float, noise_sd: float) -> _Model:
    columns = [_size_design(sources, *class_sds), sources.contrasts * contrast_sd, sources.paths * _PATH_SD]
    return _Model(sources.level, np.hstack([*columns, sources.ahead * _AHEAD_SD]), _noise(sources, noise_sd))


def _contrast_models(sources: Sources) -> list[_Model]:
    return [_contrast_model(sources, *sds) for sds in product(_CLASSES, _CONTRAST_SDS, _NOISE_SDS)]


def _nearest_models(sources: Sources) -> list[_Model]:
    return [
        _Model(
            sources.level + contrast,
            np.hstack([_size_design(sources, *class_sds), sources.ahead * _AHEAD_SD]),
            _noise(sources, noise_sd),
        )
        for contrast, class_sds, noise_sd in product(sources.contrasts.T, _CLASSES, _NOISE_SDS)
    ]


def _size_design(sources: Sources, offset_sd: float, slope_sd: float) -> Floats:
    """Offset, line in size, and bumps along it."""
    size = sources.level - _CENTRE
    bumps = np.exp(-0.5 * ((sources.level[:, None] - _BUMP_CENTRES) / _BUMP_WIDTH) ** 2)
    return np.hstack([np.full((len(size), 1), offset_sd), size[:, None] * slope_sd, bumps * _BUMP_SD])


def _noise(sources: Sources, noise_sd: float) -> Floats:
    return noise_sd * (1 + _SMALL_NOISE * np.maximum(0.0, _CENTRE - sources.level))


def _averaged(models: Sequence[_Model], measured: Ints, log_ms: Floats) -> LogPrediction:
    """Bayesian model averaging."""
    evidence, means, variances = [], [], []
    for model in models:
        weights, covariance, log_evidence = _fit(model, measured, log_ms)
        evidence.append(log_evidence)
        means.append(model.baseline + model.design @ weights)
        variances.append(((model.design @ covariance) * model.design).sum(axis=1) + model.noise_sd**2)
    share = np.exp(np.array(evidence) - max(evidence))
    share /= share.sum()
    mean = share @ np.array(means)
    variance = share @ (np.array(variances) + (np.array(means) - mean) ** 2)
    return LogPrediction(mean, np.sqrt(variance))


def _fit(model: _Model, measured: Ints, log_ms: Floats) -> tuple[Floats, Floats, float]:
    """Weights, their covariance and the log evidence under Student-t noise.

    Iteratively reweighted least squares: expectation maximisation of the scale mixture (Lange et al., JASA 1989).
    """
    design = model.design[measured]
    target = log_ms - model.baseline[measured]
    noise_sd = model.noise_sd[measured]
    share = np.ones(len(measured))
    prior = np.eye(design.shape[1])
    for _ in range(15):
        precision = share / noise_sd**2
        information = (design * precision[:, None]).T @ design + prior
        weights = np.linalg.solve(information, design.T @ (precision * target))
        residuals = (target - design @ weights) / noise_sd
        share = (_DEGREES + 1) / (_DEGREES + residuals**2)
    log_likelihood = float(student_t.logpdf(residuals, _DEGREES).sum()) - float(np.log(noise_sd).sum())
    log_evidence = log_likelihood - 0.5 * float(weights @ weights) - 0.5 * float(np.linalg.slogdet(information)[1])
    covariance = np.linalg.inv(information)
    return np.asarray(weights, float), np.asarray(covariance, float), float(log_evidence)


def _fill(contrasts: Floats) -> Floats:
    """Missing entries by soft-thresholded singular vectors (Mazumder et al., JMLR 2010, SoftImpute)."""
    known = np.isfinite(contrasts)
    filled = np.where(known, contrasts, 0.0)
    for _ in range(30):
        left, values, right = np.linalg.svd(filled, full_matrices=False)
        values = np.maximum(values - _SHRINKAGE, 0.0)
        values[_RANK:] = 0.0
        filled = np.where(known, contrasts, (left * values) @ right)
    return filled
