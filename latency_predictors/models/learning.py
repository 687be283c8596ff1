"""What source devices teach of a new one: the prior's variances, and the population of what kernels cost.

Each source device in turn plays the new one and yields one setting of the variances by maximum marginal likelihood
(Rasmussen and Williams 2006, eq. 5.8 and 5.9); twice, with all other devices as sources and with the less similar half
of them, so that devices without a near relative are prepared for. A fit weights the settings by the marginal likelihood
of its measurements (gp.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from latency_predictors.models.base import Array, Digits, Inputs
from latency_predictors.models.nnls import Features, feature_columns, shares_of
from latency_predictors.models.population import Population
from latency_predictors.models.prior import GpFeatures, LatencyPrior, covariance, unlearned_prior
from search_spaces.errors import UserError

#: Of the slope, the deviations, the intensities, the structure and the noise, in log(ms)^2: where learning starts, and
#: the centre of a weak log-normal hyperprior.
_START = np.array([0.3, 0.3, 3e-4, 3e-4, 1e-3])
_HYPERPRIOR_STD = 3.0
_LOG_BOUNDS = (-21.0, 5.0)
_NUM_ROWS = 100
_LEAST_ROWS = 20


def learn_prior(inputs: Inputs, source_measured_ms: ArrayLike, rng: np.random.Generator) -> LatencyPrior:
    """The prior whose variances are learned leave-one-device-out over the source devices.

    inputs: the candidates that source devices have measured; their `sources` (N, S) are predictions of the source
        models (onehot.py), free of noise.
    source_measured_ms: (N, S) the measurements themselves, NaN where there is none.
    rng: draws the rows to learn from.

    Source devices that have fewer than 20 measurements teach nothing; where no two are left, variances keep defaults.
    """
    measured = np.asarray(source_measured_ms, dtype=np.float64)
    prior = unlearned_prior(inputs)
    if inputs.sources is None:
        return prior
    if measured.shape != inputs.sources.shape:
        raise UserError(f"source_measured_ms: shape {measured.shape}, needed is {inputs.sources.shape}, as sources")
    log_sources = np.log(inputs.sources)
    learned: dict[str, object] = {"population": _population(prior, inputs, measured)}
    settings = []
    for device in range(inputs.num_sources if inputs.num_sources > 1 else 0):
        rows = _middle(measured[:, device])
        if len(rows) < _LEAST_ROWS:
            continue
        rows = rng.choice(rows, min(_NUM_ROWS, len(rows)), replace=False)
        others = [i for i in range(inputs.num_sources) if i != device]
        alike = [_correlation(log_sources[:, i], log_sources[:, device]) for i in others]
        distant = [others[i] for i in np.argsort(alike)[: max(1, len(others) // 2)]]
        for sources in (others, distant):
            given = inputs.with_sources(sources)
            features = unlearned_prior(given).features(given.rows(rows))
            settings.append(_most_likely_variances(features, np.log(measured[rows, device]) - features.mean))
    if settings:
        learned["variances"] = np.array(settings)
    return LatencyPrior.model_validate(prior.model_dump() | learned)


def _population(prior: LatencyPrior, inputs: Inputs, measured_ms: Array) -> Population | None:
    shares: dict[Features, list[Array]] = {"places": [], "kernels": []}
    for latency_ms in measured_ms.T:
        rows = _middle(latency_ms)
        if len(rows) < _LEAST_ROWS:
            continue
        for features, found in shares.items():
            columns = feature_columns(inputs.rows(rows), features)
            found.append(shares_of(columns, prior.scales[features], latency_ms[rows]))
    if not shares["places"]:
        return None
    return Population.of(
        prior.kernel_names, prior.scales["places"], np.array(shares["places"]), np.array(shares["kernels"])
    )


def _correlation(first: Array, second: Array) -> float:
    """Pearson's; 0 for a device that takes the same time for every network."""
    return float(np.corrcoef(first, second)[0, 1]) if np.ptp(first) and np.ptp(second) else 0.0


def _middle(latency_ms: Array) -> Digits:
    """Rows of the middle 80 % of the measured latencies: outliers of a busy device are in the tails."""
    rows = np.flatnonzero(np.isfinite(latency_ms) & (latency_ms > 0))
    if not len(rows):
        return rows
    low, high = np.quantile(latency_ms[rows], [0.1, 0.9])
    return rows[(latency_ms[rows] >= low) & (latency_ms[rows] <= high)]


def _most_likely_variances(features: GpFeatures, residual: Array) -> Array:
    """Variances (5,) that maximise the marginal likelihood of the log residuals, with a weak hyperprior."""
    from scipy.optimize import minimize

    parts = features.parts(features)
    centred = residual - residual.mean()
    start = np.log(_START)

    def objective(log_variances: Array) -> tuple[float, Array]:
        value, gradient = negative_log_likelihood(log_variances, parts, centred)
        away = (log_variances - start) / _HYPERPRIOR_STD
        return value + 0.5 * float(away @ away), gradient + away / _HYPERPRIOR_STD

    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=[_LOG_BOUNDS] * 5, options={"maxiter": 60})
    variances: Array = np.exp(found.x)
    return variances


def negative_log_likelihood(log_variances: Array, parts: Array, residual: Array) -> tuple[float, Array]:
    """-log N(residual; 0, sum of parts) without its constant, and its gradient in the log variances (5,).

    parts: (5, N, N) from GpFeatures.parts; residual: (N,).
    """
    from scipy.linalg import cho_solve, cholesky

    variances = np.exp(log_variances)
    factor = cholesky(covariance(variances, parts), lower=True)
    inverse = cho_solve((factor, True), np.eye(len(residual)))
    alpha = inverse @ residual
    weights = inverse - np.outer(alpha, alpha)
    gradient = [0.5 * v * float(np.sum(weights * part)) for v, part in zip(variances[:4], parts[1:], strict=True)]
    gradient.append(0.5 * variances[4] * float(np.trace(weights)))
    return 0.5 * float(residual @ alpha) + float(np.log(np.diag(factor)).sum()), np.array(gradient)
