"""BoTorch's qLogNEHVI as an Optuna sampler: the strongest generic baseline. Needs the extra `botorch`.

All objectives count as unknown, as in any use of it off the shelf. Ament et al., "Unexpected improvements to expected
improvement for Bayesian optimization", NeurIPS 2023; Daulton et al., "Parallel Bayesian optimization of multiple noisy
objectives with expected hypervolume improvement", NeurIPS 2021.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from nas.search.decisions import DecisionSpace, distributions, params_of, vector_of
from nas.search.settings import Indices
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import torch

# Candidates among which the acquisition is maximised; all of a space that has no more.
_POOL = 2048
_NUM_INITIAL = 10
_NUM_SAMPLES = 64
_BATCH = 256


def check_installed() -> None:
    """Raise a UserError unless BoTorch can be imported."""
    if find_spec("botorch") is None:
        raise UserError(
            "sampler 'qlognehvi' needs BoTorch, which is not installed; install it with: "
            "python -m pip install 'nanosd-nas[botorch]'"
        )


class QLogNehviSampler(BaseSampler):
    """One Gaussian process per objective on one-hot decisions, qLogNEHVI over a pool of unseen candidates.

    The pool is the whole space up to 2,048 candidates, else the neighbours of the observed front and random
    candidates. The first ten candidates are random. Pending trials are fantasised over (BoTorch's `X_pending`). Without
    a reference point BoTorch's own rule has it: a tenth of the observed front's range beyond its worst.

    Args:
        space: whose candidates are proposed.
        seed: of the initial candidates, of the pools and of the quasi-random samples.
        reference: of the hypervolume, in the units of the study; None, or any None in it: BoTorch's rule.

    Raises:
        UserError: BoTorch is not installed.
    """

    def __init__(self, space: DecisionSpace, seed: int, reference: Sequence[float | None] | None = None) -> None:
        check_installed()
        self._space, self._seed = space, seed
        given = [value for value in reference or () if value is not None]
        self._reference = np.array(given) if reference and len(given) == len(reference) else None
        self._rng = np.random.default_rng([seed, 3])
        self._independent = RandomSampler(seed=seed)
        sizes = np.array(space.sizes)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All decisions together."""
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of the candidate with the largest acquisition value."""
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        seen = [vector_of(self._space, each.params) for each in done]
        pending = [vector_of(self._space, each.params) for each in running if each.params]
        pool = self._candidates(study, seen, pending)
        if len(seen) < _NUM_INITIAL or len(pool) < 2:
            return params_of(self._space, pool[0] if len(pool) else self._space.sample(self._rng, 1)[0])
        values = np.array([each.values for each in done])
        signs = np.array([1.0 if way == optuna.study.StudyDirection.MAXIMIZE else -1.0 for way in study.directions])
        return params_of(self._space, pool[self._best(pool, np.array(seen), np.array(pending), values, signs)])

    def _candidates(self, study: optuna.Study, seen: list[Indices], pending: list[Indices]) -> Indices:
        """Unseen candidates (M, decisions) in random order."""
        if self._space.num_candidates <= _POOL:
            pool = self._space.enumerate()
        else:
            parts = [self._space.sample(self._rng, _POOL)]
            if seen:
                parts += [
                    self._space.neighbours(vector_of(self._space, best.params))
                    for best in study.best_trials[: _POOL // 64]
                ]
            ranks = self._space.rank(np.concatenate(parts))
            pool = self._space.unrank(np.unique(ranks)[-2 * _POOL :])
        taken = self._space.rank(np.array(seen + pending)) if seen or pending else np.zeros(0, np.int64)
        pool = pool[~np.isin(self._space.rank(pool), taken)]
        return pool[self._rng.permutation(len(pool))]

    def _best(self, pool: Indices, seen: Indices, pending: Indices, values: Any, signs: Any) -> int:
        import torch
        from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
        from botorch.fit import fit_gpytorch_mll
        from botorch.models import ModelListGP, SingleTaskGP
        from botorch.sampling.normal import SobolQMCNormalSampler
        from botorch.utils.multi_objective.hypervolume import infer_reference_point
        from botorch.utils.multi_objective.pareto import is_non_dominated
        from gpytorch.mlls import SumMarginalLogLikelihood

        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            torch.manual_seed(self._seed + len(seen))
            spread = values.std(axis=0)
            scale = signs / np.where(spread > 0, spread, 1.0)
            y = torch.tensor((values - values.mean(axis=0)) * scale)
            limit = None if self._reference is None else torch.tensor((self._reference - values.mean(axis=0)) * scale)
            x = self._one_hot(seen)
            model = ModelListGP(*(SingleTaskGP(x, column[:, None], outcome_transform=None) for column in y.T))
            fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
            acquisition = qLogNoisyExpectedHypervolumeImprovement(
                model=model,
                ref_point=infer_reference_point(y[is_non_dominated(y)]) if limit is None else limit,
                X_baseline=x,
                X_pending=self._one_hot(pending) if len(pending) else None,
                sampler=SobolQMCNormalSampler(torch.Size([_NUM_SAMPLES]), seed=self._seed + len(seen)),
                prune_baseline=True,
            )
            choices = self._one_hot(pool)
            with torch.no_grad():
                found = [acquisition(part[:, None]) for part in choices.split(_BATCH)]
            return int(torch.cat(found).argmax())

    def _one_hot(self, matrix: Indices) -> torch.Tensor:
        import torch

        hot = np.zeros((len(matrix), int(self._starts[-1])))
        hot[np.arange(len(matrix))[:, None], matrix + self._starts[:-1]] = 1.0
        return torch.tensor(hot, dtype=torch.float64)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random: only reached for parameters that are not in the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Nothing to do."""

    def reseed_rng(self) -> None:
        """Draw another seed, for a process of its own."""
        self._rng = np.random.default_rng()
        self._independent.reseed_rng()
