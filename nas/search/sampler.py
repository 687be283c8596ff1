"""Optuna samplers that never propose a candidate twice."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from nas.search.decisions import DecisionSpace, ExhaustedError, Indices, distributions, params_of, vector_of
from nas.search.known_cost_sampler import KnownCostSampler
from nas.search.pool import OpenCandidates
from nas.search.qlognehvi import QLogNehviSampler, check_installed
from nas.search.settings import KnownObjectives, SamplerName
from search_spaces.errors import UserError

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)


class UnseenSampler(BaseSampler):
    """Asks another sampler, and turns what is not open in the pool into the nearest open candidate.

    `queue` holds index vectors that are proposed first, without asking. The pool is not changed: the caller takes
    what it evaluates.
    """

    def __init__(self, inner: BaseSampler, space: DecisionSpace, pool: OpenCandidates, seed: int) -> None:
        self.inner = inner
        self.queue: deque[Indices] = deque()
        self._space, self._pool = space, pool
        self._rng = np.random.default_rng([seed, 1])

    def __str__(self) -> str:
        return f"Unseen{self.inner}"

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters together: only a whole candidate can be a duplicate."""
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of an open candidate.

        Raises:
            ExhaustedError: none is open.
        """
        while self.queue:
            vector = self.queue.popleft()
            if self._pool.is_open(vector):
                return params_of(self._space, vector)
        proposed = dict(
            self.inner.sample_relative(study, trial, self.inner.infer_relative_search_space(study, trial)) or {}
        )
        for name, distribution in search_space.items():
            if name not in proposed:
                proposed[name] = self.inner.sample_independent(study, trial, name, distribution)
        vector = vector_of(self._space, proposed)
        if not self._pool.is_open(vector):
            nearest = self._pool.nearest(vector, self._rng)
            if nearest is None:
                raise ExhaustedError
            vector = nearest
        return params_of(self._space, vector)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Only reached for parameters that are not in the space."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the inner sampler."""
        self.inner.before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """As the inner sampler."""
        self.inner.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """As the inner sampler."""
        self.inner.reseed_rng()


def check_sampler(name: str) -> SamplerName:
    """The name itself, of a sampler that can be made here.

    Raises:
        UserError: an unknown name, or one whose library is not installed.
    """
    for known in SAMPLERS:
        if name == known:
            if known == "qlognehvi":
                check_installed()
            return known
    raise UserError(f"unknown sampler {name!r}; legal are {', '.join(SAMPLERS)}")


def make_sampler(
    name: SamplerName,
    space: DecisionSpace,
    seed: int,
    pool: OpenCandidates,
    known: KnownObjectives | None = None,
    repeat_failed: bool = False,
) -> UnseenSampler:
    """A sampler that proposes only open candidates of the pool.

    Args:
        name: `random`; `nsga2` (population 16, for sweeps of tens to hundreds); `tpe` (multivariate); `gp` (Gaussian
            processes with expected hypervolume improvement, half a second to several seconds a proposal);
            `qlognehvi` (BoTorch's, from the extra `botorch`); `ehvi`
            (:class:`~nas.search.known_cost_sampler.KnownCostSampler`: spends no evaluation on what is known).
        space: where the candidates are from.
        seed: the same seed and the same results give the same proposals.
        pool: what may be proposed.
        known: what is known of every candidate; only `ehvi` needs it, and `qlognehvi` takes its reference point.
        repeat_failed: for `ehvi`, whether candidates whose trials failed may be proposed again, if the pool has them.

    Raises:
        UserError: unknown name, one whose library is not installed, or `ehvi` without known objectives.
    """
    check_sampler(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # of arguments that are to go, and are still needed
        inner: BaseSampler
        if name == "random":
            inner = optuna.samplers.RandomSampler(seed=seed)
        elif name == "nsga2":
            inner = optuna.samplers.NSGAIISampler(seed=seed, population_size=16)
        elif name == "tpe":
            inner = optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, warn_independent_sampling=False
            )
        elif name == "gp":
            inner = optuna.samplers.GPSampler(seed=seed, deterministic_objective=True, warn_independent_sampling=False)
        elif name == "ehvi":
            if known is None:
                raise UserError(
                    "sampler 'ehvi' needs objectives that are known beforehand; "
                    f"without any, legal are {', '.join(other for other in SAMPLERS if other != 'ehvi')}"
                )
            inner = KnownCostSampler(
                space,
                known.costs,
                known.known,
                seed=seed,
                prior=known.prior,
                features=known.features,
                reference=known.reference,
                decades=known.decades,
                allowed=pool.feasible,
                is_open=pool.is_open,
                draw=known.draw,
                repeat_failed=repeat_failed,
            )
        else:
            inner = QLogNehviSampler(space, seed, None if known is None else known.reference)
    return UnseenSampler(inner, space, pool, seed)
