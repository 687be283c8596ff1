"""What a sweep is told: how much, by whom, within which limits, and what candidates cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nas.pareto import REFERENCE
from nas.search.decisions import DecisionSpace
from nas.search.stopping import EarlyStopping, StoppingSettings
from search_spaces.sampling import sample_within
from search_spaces.space import SearchSpace

SamplerName = Literal["random", "nsga2", "tpe", "gp", "qlognehvi", "ehvi"]

Metrics = dict[str, float]
Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

# Largest space that is held as a table of all its candidates; larger ones are looked at through samples.
MAX_TABLE = 2**20
SAMPLE_SIZE = 100_000


class SweepSettings(BaseModel):
    """How a sweep runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_candidates: int = Field(48, ge=1)
    """Finished candidates, stopped ones among them, at which the sweep ends; earlier sweeps of the run count."""
    workers: int = Field(2, ge=1)
    """Evaluating processes."""
    cpus_per_trial: float = Field(1.0, gt=0)
    """Processors of each worker, as Ray counts them; as many threads, but at least one."""
    gpus_per_trial: float = Field(0.0, ge=0)
    """GPUs of each worker; below 1, workers share one."""
    trial_timeout_s: float | None = Field(None, gt=0)
    """Longest evaluation; None: 20 times the median of those that have finished, but at least a minute."""
    worker_memory_gb: float | None = Field(None, gt=0)
    """Most memory of a worker, in 10^9 bytes; None: 90 % of the machine's, shared by its workers."""
    sampler: SamplerName = "ehvi"
    seed: int = 0
    early_stopping: EarlyStopping = "none"
    """What ends an evaluation at a rung, see :mod:`nas.search.stopping`."""
    stopping_risk: float = Field(0.05, gt=0, le=0.5)
    """Of `dominance`: probability with which a candidate that belongs on the front may be stopped."""
    stopping_after: int = Field(8, ge=3)
    """Of `dominance`: evaluations to the end before the first is stopped."""
    reduction_factor: float = Field(3.0, gt=1)
    """Of `moasha`: one candidate in so many goes on at each rung."""
    max_failures: int = Field(10, ge=0)
    """Failed evaluations of one sweep after which it stops."""
    num_warm_start: int = Field(12, ge=0)
    """Candidates of the predicted front that are evaluated before the sampler is asked; needs a prior."""
    max_latency_ms: float | None = Field(None, gt=0)
    """Candidates with a larger predicted latency are never evaluated."""
    max_params: int | None = Field(None, gt=0)
    """Candidates with more parameters are never evaluated."""
    retry_failed: bool = False
    """Evaluate failed candidates of earlier sweeps again (after what made them fail is mended)."""
    recipe_hash: str = ""
    """Written into every record; finished records with another hash are refused."""

    @property
    def stopping(self) -> StoppingSettings:
        """Those of early stopping."""
        return StoppingSettings(self.early_stopping, self.stopping_risk, self.stopping_after, self.reduction_factor)


@dataclass(frozen=True)
class KnownObjectives:
    """What a study's candidates are known to have, for the samplers that use it.

    The fields are the arguments of the same names of :class:`nas.search.known_cost_sampler.KnownCostSampler`.
    """

    costs: Callable[[Indices], Any]
    """Index matrices (N, decisions) to (N, known objectives), minimised."""
    known: tuple[bool, ...]
    """For each objective of the study whether it is known."""
    prior: Callable[[Indices], Any] | None = None
    features: Callable[[Indices], Any] | None = None
    reference: tuple[float | None, ...] | None = None
    decades: tuple[bool, ...] | None = None
    draw: Callable[[np.random.Generator, int], Indices] | None = None


@dataclass(frozen=True)
class KnownCosts:
    """What every candidate costs, known before any evaluation: index matrices (N, stages) to arrays (N,)."""

    latency_ms: Callable[[Indices], Any]
    num_params: Callable[[Indices], Any]
    num_macs: Callable[[Indices], Any] | None = None
    error: str = "latent_error"
    """The metric of the evaluator that is minimised together with latency and parameters."""

    @property
    def objectives(self) -> tuple[str, str, str]:
        """Names of the three objectives, all minimised."""
        return (self.error, "latency_ms", "num_params")

    def matrix(self, indices: Indices) -> Floats:
        """Latency in ms and parameters (N, 2)."""
        latency, params = self.latency_ms(indices), self.num_params(indices)
        return np.stack([np.asarray(latency, np.float64), np.asarray(params, np.float64)], axis=1)

    def known_objectives(
        self,
        bounds: tuple[Floats, Floats],
        prior: Callable[[Indices], Any] | None = None,
        draw: Callable[[np.random.Generator, int], Indices] | None = None,
    ) -> KnownObjectives:
        """The sweep's three objectives as samplers see them, by the reference rule of :mod:`nas.pareto`.

        Args:
            bounds: least and largest (latency, parameters) of the space.
            prior: predicted error (N,).
            draw: random candidates within limits.
        """
        low, high = bounds
        ends = low + REFERENCE * (high - low)
        return KnownObjectives(
            costs=self.matrix,
            known=(False, True, True),
            prior=prior,
            features=self.num_macs,
            reference=(None, *(float(end) for end in ends)),
            decades=(True, False, False),
            draw=draw,
        )


def draw_within(
    space: SearchSpace, costs: KnownCosts, settings: SweepSettings
) -> Callable[[np.random.Generator, int], Indices] | None:
    """Random candidates within a sweep's limits, where the space is too large for a table; None without limits."""
    given = {"latency_ms": settings.max_latency_ms, "num_params": settings.max_params}
    budgets = {name: float(limit) for name, limit in given.items() if limit is not None}
    if not budgets or space.num_candidates <= MAX_TABLE:
        return None
    functions = {"latency_ms": costs.latency_ms, "num_params": costs.num_params}
    return lambda rng, num: sample_within(space, functions, budgets, rng, num)


def table_or_sample(space: DecisionSpace, seed: int) -> Indices:
    """All candidates of a space (N, stages), or SAMPLE_SIZE random ones of a space of more than MAX_TABLE."""
    if space.num_candidates <= MAX_TABLE:
        return space.enumerate()
    return space.sample(np.random.default_rng(seed), SAMPLE_SIZE)
