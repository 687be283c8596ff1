"""Which stage options go with predictions that are too high or too low, against the error that all networks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_STEPS = 60
#: An option is called biased from here on: smaller effects are of no consequence for a choice.
_LEAST_PCT = 2.0


@dataclass(frozen=True)
class OptionError:
    """By how many per cent networks with this option are predicted higher (positive) or lower than the average one.

    That is beside `common_error`: both together are what a network is off. std_pct: standard deviation of that figure;
    num: networks that have the option.
    """

    stage: str
    option: str
    error_pct: float
    std_pct: float
    num: int

    @property
    def is_certain(self) -> bool:
        """Whether the 95 % interval leaves out zero, and the effect is of consequence."""
        return abs(self.error_pct) > 1.96 * self.std_pct and abs(self.error_pct) >= _LEAST_PCT


def option_errors(options: Sequence[Mapping[str, str]], log_errors: Sequence[float]) -> list[OptionError]:
    """Effects of stage options on log(prediction / measurement) beside its mean, by Bayesian linear regression.

    log_error = mean + sum over stages of effect(option) + noise, effects and noise normal and centred, their variances
    from the largest marginal likelihood (MacKay 1992): where nothing but noise is there, the effects shrink to zero.
    Stages with one option only have no effect to find. Below three networks the list is empty.

    options: per network stage -> option; log_errors: (N,).
    """
    errors = np.asarray(log_errors, dtype=np.float64)
    names = [
        (stage, option)
        for stage in (options[0] if options else ())
        for option in sorted({o[stage] for o in options})
        if len({o[stage] for o in options}) > 1
    ]
    if len(errors) < 3 or not names:
        return []
    design = np.array([[float(o[stage] == option) for stage, option in names] for o in options])
    counts = design.sum(0)
    centred = design - design.mean(0)
    mean, covariance = _posterior(centred, errors - errors.mean())
    return [
        OptionError(stage, option, 100.0 * float(np.expm1(m)), 100.0 * float(np.exp(m) * np.sqrt(max(v, 0.0))), int(n))
        for (stage, option), m, v, n in zip(names, mean, np.diag(covariance), counts, strict=True)
    ]


def common_error(log_errors: Sequence[float]) -> tuple[float, float] | None:
    """(per cent that all networks are predicted too high (positive) or too low, half its 95 % interval); None below 3.

    log_errors: (N,) log(prediction / measurement). Their mean, with Student's t; it changes no order.
    """
    from scipy.special import stdtrit

    errors = np.asarray(log_errors, dtype=np.float64)
    if len(errors) < 3:
        return None
    mean, std = float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(len(errors)))
    return 100.0 * float(np.expm1(mean)), 100.0 * float(np.exp(mean) * stdtrit(len(errors) - 1, 0.975) * std)


def common(log_errors: Sequence[float]) -> str | None:
    """The error that all networks share as a sentence; None where it is not certain, or of no consequence."""
    found = common_error(log_errors)
    if found is None or abs(found[0]) < max(found[1], _LEAST_PCT):
        return None
    return (
        f"all networks together are predicted {abs(found[0]):.0f} % too {'high' if found[0] > 0 else 'low'} "
        f"(+-{found[1]:.0f} %), which changes no order"
    )


def biased(effects: Sequence[OptionError], most: int = 3) -> list[str]:
    """Sentences on the options whose error is certain, the largest first; relative to the stage's other options."""
    certain = sorted((e for e in effects if e.is_certain), key=lambda e: -abs(e.error_pct))
    return [
        f"networks with {e.option} at {e.stage} are predicted {abs(e.error_pct):.0f} % too "
        f"{'high' if e.error_pct > 0 else 'low'} (+-{1.96 * e.std_pct:.0f} %) "
        f"against the average of {e.stage}'s options"
        for e in certain[:most]
    ]


def _posterior(
    design: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean (P,) and covariance (P, P) of the effects at the variances that maximise the marginal likelihood.

    On the grid of the ratio of the two variances everything else has a closed form, by the singular values of the
    design; effects much larger than the noise, and none at all, are the grid's ends.
    """
    left, singular, right = np.linalg.svd(design, full_matrices=False)
    rotated = left.T @ target
    rest = float(target @ target - rotated @ rotated)
    num = len(target) - 1  # the mean was taken out
    best: tuple[float, float, float] | None = None
    for ratio in np.concatenate([[0.0], np.geomspace(1e-4, 1e2, _STEPS)]):
        scale = 1.0 + ratio * singular**2
        noise = max((float(np.sum(rotated**2 / scale)) + rest) / num, 1e-12)
        likelihood = -0.5 * (num * np.log(noise) + float(np.sum(np.log(scale))))
        if best is None or likelihood > best[0]:
            best = (likelihood, float(ratio), noise)
    assert best is not None
    _, ratio, noise = best
    shrunk = ratio * singular / (1.0 + ratio * singular**2)
    mean = right.T @ (shrunk * rotated)
    prior = ratio * noise
    covariance = (
        prior * np.eye(design.shape[1])
        - right.T @ np.diag(prior * ratio * singular**2 / (1.0 + ratio * singular**2)) @ right
    )
    return mean, covariance
