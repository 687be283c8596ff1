"""The figures' data, computed apart from the figures: arrays and plain numbers, no plotly here."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import ArrayLike

from nas.run_data import MAX_DRAWN, Candidate, RunData, contradicting


@dataclass(frozen=True)
class FrontData:
    """Finished candidates split by dominance in (latent error, predicted latency, parameters), all minimised.

    `front` and `dominated` are those that are drawn, of `num_front` and `num_dominated`. `picks` maps a label to its
    candidate; picks that chose the same candidate share one label, as variants do.
    """

    front: tuple[Candidate, ...]
    dominated: tuple[Candidate, ...]
    picks: dict[str, Candidate]
    num_front: int
    num_dominated: int


@dataclass(frozen=True)
class HypervolumeHistory:
    """Hypervolume after finished evaluations (counted from 1), and the reference it is taken against.

    Of more than `nas.run_data.MAX_DRAWN` evaluations those at which it changes, the last one, and no more than that.
    """

    evaluations: tuple[int, ...]
    values: tuple[float, ...]
    candidate_ids: tuple[str, ...]
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


def front_data(run: RunData) -> FrontData:
    """The front among the finished candidates and the picks on it."""
    every = run.evaluated
    on_front = frozenset(every.orders[every.on_front].tolist())
    by_id = {c.candidate_id: c for c in run.done}
    names: dict[str, list[str]] = {}
    for pick in run.picks:
        if pick.candidate_id in by_id:
            names.setdefault(pick.candidate_id, []).append(pick.name)
    return FrontData(
        front=tuple(c for c in run.done if c.order in on_front),
        dominated=tuple(c for c in run.done if c.order not in on_front),
        picks={"-".join(labels): by_id[candidate_id] for candidate_id, labels in names.items()},
        num_front=len(on_front),
        num_dominated=len(every) - len(on_front),
    )


def hypervolume_history(run: RunData) -> HypervolumeHistory:
    """Hypervolume of all candidates finished so far, after each of them."""
    from nas import pareto

    every = run.evaluated
    if not len(every):
        return HypervolumeHistory((), (), (), "")
    latency, params = run.space.latency_ms, run.space.num_params
    bounds = ((latency[0], params[0]), (latency[1], params[1])) if latency and params else None
    history = pareto.hypervolume_history(every.objectives, pareto.ObjectiveScale.of(every.objectives, bounds))
    costs = "cheapest to dearest candidate of the " + ("space" if bounds else "run")
    rule = (
        f"share of the box between the ideal and {pareto.REFERENCE:g} times the nadir; error in decades from "
        f"{pareto.ERROR_FLOOR:g} to the worst evaluated, costs linear from the {costs}"
    )
    rows = np.arange(len(history))
    if len(rows) > MAX_DRAWN:
        rows = np.flatnonzero(np.diff(history, prepend=-1.0))
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MAX_DRAWN - 1)).round().astype(int)]
        rows = np.union1d(rows, [len(history) - 1])
    ids = tuple(str(name) for name in every.candidate_ids[rows])
    return HypervolumeHistory(tuple((rows + 1).tolist()), tuple(history[rows].tolist()), ids, rule)


def errors_pct(run: RunData) -> tuple[float, float] | None:
    """Median and worst absolute latency-prediction error in percent, on the whole U-Nets kept out of the fit."""
    errors = run.device.errors_pct("check") if run.device else []
    return (median(errors), max(errors)) if errors else None


def kendall_tau(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's tau-b; None when a side is constant or has fewer than two values."""
    from scipy.stats import kendalltau

    if np.size(first) < 2:
        return None
    tau = float(kendalltau(first, second).statistic)
    return None if np.isnan(tau) else tau


def contradiction(run: RunData) -> Contradiction | None:
    """The pair that contradicts "fewer parameters are faster" most, of all finished candidates."""
    every = run.evaluated
    pair = contradicting(every.objectives[:, 2], every.objectives[:, 1])
    if pair is None:
        return None
    by_order = {c.order: c for c in run.done}
    small, fast = (by_order[int(every.orders[row])] for row in pair)
    return Contradiction(small, fast)
