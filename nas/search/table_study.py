"""Any sampler of the recipe on a table: an Optuna study in memory, asked for rows and told what the table says."""

from __future__ import annotations

import optuna
from optuna.trial import TrialState

from nas.search.decisions import ExhaustedError, distributions, vector_of
from nas.search.learning_curves import Forecast
from nas.search.pool import OpenCandidates
from nas.search.record import FORECAST
from nas.search.sampler import make_sampler
from nas.search.settings import KnownObjectives, SamplerName
from nas.search.table import CandidateTable, ReferenceName


class StudyDoor:
    """The way to a sampler by its name, see :class:`nas.search.simulation.Door`.

    The sampler is told the known objectives of every row, the others of evaluated ones, and at most a reference point.
    The same seed, and the same ends in the same order, give the same rows.

    Args:
        table: whose rows are asked for.
        sampler: its name in the recipe.
        seed: of the sampler.
        repeats: let the sampler propose what it has proposed before, as Optuna's own do; else the nearest candidate
            that it has not proposed is taken instead, as in a sweep.
        reference: tell samplers that take one the reference point of the hypervolume; None: they choose their own.
        prior: column of the table that predicts its only unknown objective; samplers that take a prior are told it.

    Raises:
        UserError: an unknown sampler, or one whose library is not installed.
    """

    def __init__(
        self,
        table: CandidateTable,
        sampler: SamplerName,
        seed: int,
        repeats: bool = False,
        reference: ReferenceName | None = None,
        prior: str | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._table, self._repeats = table, repeats
        point = None if reference is None else tuple(table.reference(reference).tolist())
        predicted = None if prior is None else table.columns[prior]
        known = KnownObjectives(
            table.known_costs,
            table.known,
            prior=None if predicted is None else lambda matrix: predicted[table.space.rank(matrix)],
            reference=point,
        )
        self._pool = OpenCandidates(table.space)
        self._study = optuna.create_study(
            directions=["minimize"] * len(table.objectives),
            sampler=make_sampler(sampler, table.space, seed, self._pool, known),
        )
        self._distributions = distributions(table.space)
        self._numbers: dict[int, list[int]] = {}

    def ask(self) -> int:
        """Row to evaluate next.

        Raises:
            ExhaustedError: every row has been proposed.
        """
        if self._pool.exhausted:
            raise ExhaustedError
        trial = self._study.ask(self._distributions)
        vector = vector_of(self._table.space, trial.params)
        if not self._repeats:
            self._pool.take(vector)
        row = int(self._table.space.rank(vector[None])[0])
        self._numbers.setdefault(row, []).append(trial.number)
        return row

    def tell(self, row: int, failed: bool) -> None:
        """The evaluation of an asked row ended: with the table's objectives, or without a result."""
        number = self._numbers[row].pop(0)
        if failed:
            self._study.tell(number, state=TrialState.FAIL)
        else:
            self._study.tell(number, [float(value) for value in self._table.values[row]])

    def tell_stopped(self, row: int, forecast: Forecast) -> None:
        """The evaluation of an asked row was stopped: its first objective is only expected, the others are known."""
        number = self._numbers[row].pop(0)
        storage = self._study._storage
        trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        storage.set_trial_user_attr(trial_id, FORECAST, [[forecast.low, forecast.high]])
        self._study.tell(number, [forecast.median, *(float(value) for value in self._table.values[row, 1:])])
