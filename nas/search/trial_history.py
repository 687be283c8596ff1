"""An Optuna study as the proposer needs it: results, what runs, what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas.pareto import ERROR_FLOOR
from nas.search.decisions import DecisionSpace, Indices, vector_of
from nas.search.proposer import Seen
from nas.search.record import FORECAST

Floats = NDArray[np.float64]

_WIDTH = 2 * 1.6448536269514722  # of that interval, in standard deviations


@dataclass(frozen=True)
class _Result:
    """One trial, as the proposer needs it."""

    vector: tuple[int, ...]
    values: tuple[float, ...] | None
    constraints: dict[str, float]
    failed: bool = False
    """Whether it has no values because its evaluation failed."""
    deviations: tuple[float, ...] = ()
    """Standard deviations of values that were predicted, not measured."""


class TrialHistory:
    """Reads each finished trial of one study once.

    Args:
        space: of the candidates.
        directions: of the study's objectives.
        known: for each of them whether it is known beforehand: its value is not read.
        decades: for each of them whether it is minimised in decades.
        repeat_failed: whether candidates whose trials failed are left open.
    """

    def __init__(
        self,
        space: DecisionSpace,
        directions: Sequence[StudyDirection],
        known: Sequence[bool],
        decades: Sequence[bool],
        repeat_failed: bool,
    ) -> None:
        self._space, self._known, self._decades = space, tuple(known), tuple(decades)
        self._signs = signs_of(directions)
        self._repeat_failed = repeat_failed
        self._finished: dict[int, _Result] = {}
        self.given: dict[int, Indices] = {}
        """Vectors proposed here by trial number, until the trials finish: a running trial may not show them yet."""

    def seen(self, study: optuna.Study, own: int) -> Seen:
        """Results so far, in the order of trial numbers, without trial number `own`."""
        pending: list[Indices] = []
        for trial in study.get_trials(deepcopy=False):
            number = trial.number
            if number in self._finished or number == own:
                continue
            if trial.state.is_finished():
                result = self._result(trial)
                self.given.pop(number, None)
                if result is not None:
                    self._finished[number] = result
            elif (vector := self._vector(trial)) is not None:
                pending.append(vector)
        width = len(self._space.sizes)
        finished = [self._finished[number] for number in sorted(self._finished)]
        done = [result for result in finished if result.values is not None]
        without = [result for result in finished if result.values is None and not self._repeat_failed]
        # A candidate evaluated twice (enqueued again, say) counts once, with its latest result.
        latest = {result.vector: result for result in done}
        done = list(latest.values())
        pending = [vector for vector in pending if tuple(vector.tolist()) not in latest]
        tried = {*latest, *(tuple(vector.tolist()) for vector in pending)}
        failed = list(
            dict.fromkeys(result.vector for result in without if result.failed and result.vector not in tried)
        )
        closed = [result.vector for result in without if not result.failed]
        names = list(dict.fromkeys(name for result in done for name in result.constraints))
        return Seen(
            vectors=np.array([result.vector for result in done], dtype=np.int64).reshape(-1, width),
            values=np.array([result.values for result in done], dtype=np.float64).reshape(-1, self._known.count(False)),
            deviations=np.array([result.deviations for result in done], dtype=np.float64).reshape(
                -1, self._known.count(False)
            ),
            pending=np.array(pending, dtype=np.int64).reshape(-1, width),
            closed=np.array(closed, dtype=np.int64).reshape(-1, width),
            failed=np.array(failed, dtype=np.int64).reshape(-1, width),
            constraints={name: np.array([result.constraints.get(name, np.nan) for result in done]) for name in names},
        )

    def _vector(self, trial: FrozenTrial) -> Indices | None:
        """Canonical index vector of a trial that runs or waits, as far as it is known."""
        if trial.number in self.given:
            return self.given[trial.number]
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if not {decision.name for decision in self._space.free_decisions} <= set(params):
            return None
        try:
            return self._space.canonical(vector_of(self._space, params)[None])[0]
        except ValueError:  # a value that is not in the space: another sweep's trial
            return None

    def _result(self, trial: FrozenTrial) -> _Result | None:
        vector = self._vector(trial)
        if vector is None:
            return None
        key = tuple(vector.tolist())
        if trial.state != TrialState.COMPLETE or trial.values is None:
            return _Result(key, None, {}, trial.state == TrialState.FAIL)
        values = [
            sign * value for sign, value, known in zip(self._signs, trial.values, self._known, strict=True) if not known
        ]
        decades = [d for d, known in zip(self._decades, self._known, strict=True) if not known]
        values = [in_decades(value) if d else value for value, d in zip(values, decades, strict=True)]
        if not np.isfinite(values).all():
            return _Result(key, None, {}, True)
        deviations = [0.0] * len(values)
        if FORECAST in trial.user_attrs:
            for i, ((low, high), d) in enumerate(zip(trial.user_attrs[FORECAST], decades, strict=True)):
                ends = (in_decades(low), in_decades(high)) if d else (low, high)
                # Never none at all: nobody measured it.
                deviations[i] = max(abs(ends[1] - ends[0]) / _WIDTH, 1e-9)
        return _Result(key, tuple(values), dict(trial.constraints), deviations=tuple(deviations))


def signs_of(directions: Sequence[StudyDirection]) -> Floats:
    """-1 for each maximised objective, 1 for each minimised one."""
    return np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])


def in_decades(value: float) -> float:
    """log10 of an error, those below the floor of :mod:`nas.pareto` alike."""
    return float(np.log10(max(value, ERROR_FLOOR)))
