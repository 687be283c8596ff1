"""The figures' data, computed apart from the figures: arrays and plain numbers, no plotly here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from nas.run_data import OBJECTIVES, Candidate, RunData


@dataclass(frozen=True)
class FrontData:
    """Finished candidates split by dominance in (latent error, predicted latency, parameters), all minimised.

    `picks` maps a label to its candidate; picks that chose the same candidate share one label, as variants do.
    """

    front: tuple[Candidate, ...]
    dominated: tuple[Candidate, ...]
    picks: dict[str, Candidate]


@dataclass(frozen=True)
class HypervolumeHistory:
    """Hypervolume after each finished evaluation (counted from 1), and the reference it is taken against."""

    evaluations: tuple[int, ...]
    values: tuple[float, ...]
    rule: str


@dataclass(frozen=True)
class Contradiction:
    """Two candidates where the one with fewer parameters is the slower one."""

    small: Candidate
    fast: Candidate

    @property
    def params_ratio(self) -> float:
        """Parameters of the fast one over those of the small one, > 1."""
        return self.fast.num_params / self.small.num_params

    @property
    def latency_ratio(self) -> float:
        """Latency of the small one over that of the fast one, > 1."""
        return self.small.latency_ms / self.fast.latency_ms


def objectives(candidates: Sequence[Candidate]) -> np.ndarray:
    """(N, 3) float64: latent error, predicted latency in ms, parameters."""
    return np.array([[getattr(c, name) for name in OBJECTIVES] for c in candidates], dtype=np.float64).reshape(
        -1, len(OBJECTIVES)
    )


def front_data(run: RunData) -> FrontData:
    """The front among the finished candidates and the picks on it."""
    from nas import pareto

    mask = pareto.front(objectives(run.done))
    by_id = {c.candidate_id: c for c in run.done}
    names: dict[str, list[str]] = {}
    for pick in run.picks:
        if pick.candidate_id in by_id:
            names.setdefault(pick.candidate_id, []).append(pick.name)
    return FrontData(
        front=tuple(c for c, inside in zip(run.done, mask, strict=True) if inside),
        dominated=tuple(c for c, inside in zip(run.done, mask, strict=True) if not inside),
        picks={"-".join(labels): by_id[candidate_id] for candidate_id, labels in names.items()},
    )


def hypervolume_history(run: RunData) -> HypervolumeHistory:
    """Hypervolume of all candidates finished so far, after each of them."""
    from nas import pareto

    values = objectives(run.done)
    if not len(values):
        return HypervolumeHistory((), (), "")
    latency, params = run.space.latency_ms, run.space.num_params
    bounds = ((latency[0], params[0]), (latency[1], params[1])) if latency and params else None
    history = pareto.hypervolume_history(values, pareto.ObjectiveScale.of(values, bounds))
    costs = "cheapest to dearest candidate of the " + ("space" if bounds else "run")
    rule = (
        f"share of the box between the ideal and {pareto.REFERENCE:g} times the nadir; error in decades from "
        f"{pareto.ERROR_FLOOR:g} to the worst evaluated, costs linear from the {costs}"
    )
    return HypervolumeHistory(tuple(range(1, len(values) + 1)), tuple(float(v) for v in history), rule)


def errors_pct(run: RunData) -> tuple[float, float] | None:
    """Median and worst absolute latency-prediction error in percent, on the whole U-Nets kept out of the fit."""
    errors = run.device.errors_pct("check") if run.device else []
    return (median(errors), max(errors)) if errors else None


def kendall_tau(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Kendall's tau-b; None when a side is constant or has fewer than two values."""
    from scipy.stats import kendalltau

    if len(first) < 2:
        return None
    tau = float(kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


def contradiction(candidates: Sequence[Candidate]) -> Contradiction | None:
    """The pair that contradicts "fewer parameters are faster" most: the smaller of its ratios is largest; O(N^2)."""
    params = np.array([c.num_params for c in candidates], dtype=np.float64)
    latency = np.array([c.latency_ms for c in candidates], dtype=np.float64)
    best, pair = 1.0, None
    for small in range(len(candidates)):
        score = np.minimum(params / params[small], latency[small] / latency)
        fast = int(score.argmax())
        if score[fast] > best:
            best, pair = float(score[fast]), Contradiction(candidates[small], candidates[fast])
    return pair
