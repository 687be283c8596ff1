"""An Optuna sampler for objectives of which some are known for every candidate beforehand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from nas.pareto import ERROR_FLOOR
from nas.search.candidate_pool import Costs, Room, columns
from nas.search.decisions import DecisionSpace, ExhaustedError, Indices, distributions, params_of
from nas.search.proposer import MAX_LISTED, Proposal, Proposer
from nas.search.surrogate.features import Features
from nas.search.surrogate.model import SurrogateSettings
from nas.search.trial_history import TrialHistory, in_decades, signs_of
from search_spaces.errors import UserError

Floats = NDArray[np.float64]
PROPOSAL = "proposal"
"""User attribute of a trial: why its candidate was chosen (the fields of a Proposal, without its vector)."""
_SCALE_SAMPLE = 20_000


class KnownCostSampler(BaseSampler):
    """Proposes the candidate with the largest expected hypervolume improvement, exactly, given all known costs.

    Parameters, predicted latency and the like cost nothing to know, so no trial is spent on learning them: only the
    other objectives have surrogates. Works in `study.optimize`, ask/tell and Ray Tune's OptunaSearch (give that
    `distributions(space)` as its space). No candidate is proposed twice. Candidates of running trials count as if they
    had come out as predicted. Constraints that trials set (`trial.set_constraint`) are modelled too, and so is which
    trials fail (Optuna's state FAIL, or values that are not finite). The reasons of a proposal are in `last_proposal`
    and in the trial's user attribute `proposal`.

    The same seed and the same results in the same order give the same proposals.

    Args:
        space: the candidates; parameters are its decisions with a choice.
        costs: index matrices (N, decisions) to (N, known objectives), each minimised.
        known: for each objective of the study whether it is known; the known ones in the order of `costs`.
        seed: of every random choice; None: from the system's entropy.
        prior: predicted unknown objectives of index matrices, (N,) or (N, unknown objectives), in the study's units:
            the first candidates follow it, and the surrogate learns how far to trust it. What is not finite counts as
            bad as the worst.
        features: further known numbers (N, F) that are no objectives.
        reference: upper end of the hypervolume for each objective of the study, in its own units; None, or a None
            entry: the worst value observed or expected of an unknown objective, the worst of the space of a known one.
        decades: for each objective of the study whether its hypervolume is counted in decades, as the rule of
            :mod:`nas.pareto` has it (None: none is); unknown objectives that are not negative only.
        num_initial: candidates spread over the costs before the first model.
        allowed: mask (N,) of index matrices: hard limits, never crossed.
        is_open: whether one index vector (decisions,) may be proposed now, asked last.
        draw: (generator, number) to random candidates within the limits, for large spaces with narrow limits.
        repeat_failed: whether candidates whose trials failed may be proposed again.
        settings: of the surrogates.

    Raises:
        UserError: `known` has no unknown objective, or not as many known ones as there are costs.
    """

    def __init__(
        self,
        space: DecisionSpace,
        costs: Callable[[Indices], Any],
        known: Sequence[bool],
        *,
        seed: int | None = None,
        prior: Callable[[Indices], Any] | None = None,
        features: Callable[[Indices], Any] | None = None,
        reference: Sequence[float | None] | None = None,
        decades: Sequence[bool] | None = None,
        num_initial: int = 5,
        allowed: Callable[[Indices], Any] | None = None,
        is_open: Callable[[Indices], bool] | None = None,
        draw: Callable[[np.random.Generator, int], Indices] | None = None,
        repeat_failed: bool = False,
        settings: SurrogateSettings | None = None,
    ) -> None:
        self._known = tuple(bool(k) for k in known)
        if all(self._known):
            raise UserError("every objective is known; a search needs at least one that is not")
        for name, given in (("reference", reference), ("decades", decades)):
            if given is not None and len(given) != len(self._known):
                raise UserError(f"{name} has {len(given)} entries for {len(self._known)} objectives; give one for each")
        self._space, self._seed = space, _from_entropy() if seed is None else seed
        self._design_seed = self._seed
        self._costs, self._prior, self._extra = costs, prior, features
        self._allowed, self._is_open, self._draw = allowed, is_open, draw
        self._reference, self._num_initial = reference, num_initial
        self._decades = tuple(decades) if decades is not None else (False,) * len(self._known)
        self._repeat_failed, self._settings = repeat_failed, settings or SurrogateSettings()
        self._independent = optuna.samplers.RandomSampler(seed=self._seed)
        self._lock = threading.Lock()
        self._proposer: Proposer | None = None
        self._study: str | None = None
        self._history: TrialHistory | None = None
        self.last_proposal: Proposal | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Ray's OptunaSearch writes its sampler into its checkpoints.
        return {**self.__dict__, "_lock": None, "_proposer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters together: a whole candidate is proposed."""
        return distributions(self._space)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Parameters of the next candidate.

        Raises:
            ExhaustedError: every candidate within the limits was proposed.
            UserError: the study has other objectives than the sampler.
        """
        names = {decision.name for decision in self._space.free_decisions}
        if names <= set(trial.system_attrs.get("fixed_params", {})):
            return {}  # enqueued: nothing to choose
        with self._lock:
            self._check(study)
            proposal = self._propose(study, trial)
            if proposal is None:
                raise ExhaustedError("every candidate within the limits has been proposed")
            vector = np.array(proposal.vector, dtype=np.int64)
            assert self._history is not None
            self._history.given[trial.number] = vector
            proposal = replace(proposal, predicted=self._outside(proposal.predicted, study.directions))
            self.last_proposal = proposal
        reasons = {key: value for key, value in asdict(proposal).items() if key != "vector" and value not in (None, ())}
        study._storage.set_trial_user_attr(trial._trial_id, PROPOSAL, reasons)  # samplers have no public way
        return params_of(self._space, vector)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random; only reached for parameters that are not in the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Another seed for random choices (Optuna calls this for parallel threads); the first candidates stay."""
        self._seed = _from_entropy()
        self._independent.reseed_rng()

    def _check(self, study: optuna.Study) -> None:
        if study.study_name != self._study:
            self._study, self._proposer, self._history = study.study_name, None, None
        if len(study.directions) != len(self._known):
            raise UserError(
                f"the study has {len(study.directions)} objectives, the sampler was told of {len(self._known)}; "
                "give one entry of `known` for each"
            )
        for number, (direction, known) in enumerate(zip(study.directions, self._known, strict=True)):
            if known and direction == StudyDirection.MAXIMIZE:
                raise UserError(f"objective {number} is known and maximised; minimise its negative")

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> Proposal | None:
        if self._proposer is None:
            self._proposer = self._make_proposer(study.directions)
        if self._history is None:
            self._history = TrialHistory(self._space, study.directions, self._known, self._decades, self._repeat_failed)
        seen = self._history.seen(study, trial.number)
        rng = np.random.default_rng([self._seed, 1, trial.number])
        if self._is_open is not None and seen.failed is not None:
            # Knows better than the study, in which an interrupted trial has failed, too.
            seen = replace(seen, failed=seen.failed[[not self._is_open(vector) for vector in seen.failed]])
        closed = seen.closed
        while True:
            proposal = self._proposer.propose(replace(seen, closed=closed), rng)
            if proposal is None or self._is_open is None:
                return proposal
            vector = np.array(proposal.vector, dtype=np.int64)
            if self._is_open(vector):
                return proposal
            closed = np.concatenate([closed, vector[None]])

    def _make_proposer(self, directions: Sequence[StudyDirection]) -> Proposer:
        space = self._space
        prior = None if self._prior is None else self._inside(self._prior, directions)
        given = _joined([f for f in (prior, self._extra) if f is not None])
        known = Costs(self._costs, given)
        listed = space.num_candidates <= MAX_LISTED
        sample = (
            space.enumerate() if listed else space.sample(np.random.default_rng([self._design_seed, 2]), _SCALE_SAMPLE)
        )
        costs, numbers = known.of(sample)
        num_known = sum(self._known)
        if costs.shape[1] != num_known:
            raise UserError(f"costs have {costs.shape[1]} columns for {num_known} known objectives; give one for each")
        features = Features(space, sample, costs, numbers)
        room = Room(space, known, features, self._allowed, self._draw)
        ends: list[float | None] | None = None
        if self._reference is not None:
            order = [i for i, k in enumerate(self._known) if not k] + [i for i, k in enumerate(self._known) if k]
            ends = []
            for i in order:
                end = self._reference[i]
                if end is not None:
                    end = -end if directions[i] == StudyDirection.MAXIMIZE else end
                    end = in_decades(end) if self._decades[i] and not self._known[i] else end
                ends.append(end)
        return Proposer(
            room,
            num_unknown=len(self._known) - num_known,
            seed=self._design_seed,
            reference=ends,
            num_initial=self._num_initial,
            has_prior=prior is not None,
            settings=self._settings,
        )

    def _outside(
        self, predicted: tuple[tuple[float, float, float], ...], directions: Sequence[StudyDirection]
    ) -> tuple[tuple[float, float, float], ...]:
        """Quantiles in the study's units, the low one first."""
        unknown = [i for i, known in enumerate(self._known) if not known]
        out = []
        for i, (low, middle, high) in zip(unknown, predicted, strict=False):
            if self._decades[i]:
                low, middle, high = 10.0**low, 10.0**middle, 10.0**high
            out.append((-high, -middle, -low) if directions[i] == StudyDirection.MAXIMIZE else (low, middle, high))
        return tuple(out)

    def _inside(
        self, prior: Callable[[Indices], Any], directions: Sequence[StudyDirection]
    ) -> Callable[[Indices], Any]:
        """The prior as the proposer has the unknown objectives: minimised, in decades where these are."""
        unknown = [i for i, known in enumerate(self._known) if not known]
        signs = signs_of(directions)[unknown]
        decades = np.array([self._decades[i] for i in unknown])

        def inside(matrix: Indices) -> Floats:
            values = columns(prior(matrix))
            if values.shape[1] != len(unknown):
                raise UserError(
                    f"prior has {values.shape[1]} columns for {len(unknown)} unknown objectives; give one each"
                )
            values = np.where(np.isfinite(values), values, np.nan) * signs
            return np.where(decades, np.log10(np.maximum(values, ERROR_FLOOR)), values)

        return inside


def _from_entropy() -> int:
    return int(np.random.SeedSequence().generate_state(1)[0])


def _joined(functions: Sequence[Callable[[Indices], Any]]) -> Callable[[Indices], Floats] | None:
    """One function (N, decisions) to (N, columns of all)."""
    if not functions:
        return None

    def joined(matrix: Indices) -> Floats:
        return np.concatenate([columns(function(matrix)) for function in functions], axis=1)

    return joined
