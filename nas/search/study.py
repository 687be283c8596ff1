"""The Optuna study of a run: a view of the store that samplers and optuna-dashboard read."""

from __future__ import annotations

import os
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.search.decisions import distributions, params_of, vector_of
from nas.search.journal import UNFINISHED, StudyJournal, cut_torn_line, release_stale_lock
from nas.search.record import FORECAST
from nas.search.settings import Indices, KnownCosts
from nas.search.store import CandidateRecord, CandidateStore
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

JOURNAL = "study.log"
INTERRUPTED = "interrupted"

# What samplers learn from: a stopped evaluation says what the error was going to be, not that there is none.
_WITH_VALUES = ("done", "stopped")


def open_study(run_dir: Path, costs: KnownCosts, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """Open or make the study in `run_dir/study.log`, three objectives, all minimised.

    A last line torn by a crash is cut off; a lock that a killed process left behind is removed. A journal that
    cannot be read at all is set aside as `study.log.damaged` and made anew: the store has everything in it.

    Raises:
        UserError: the file cannot be written, or its study has other objectives.
    """
    path = run_dir / JOURNAL
    try:
        release_stale_lock(path)
        cut_torn_line(path)
        return _load(path, run_dir.name, costs, sampler)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space or make the folder writable") from None
    except UserError:
        raise
    except Exception:  # whatever a damaged journal makes Optuna raise
        os.replace(path, path.with_name(JOURNAL + ".damaged"))
        return _load(path, run_dir.name, costs, sampler)


def _load(path: Path, name: str, costs: KnownCosts, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = StudyJournal(path)
    study = optuna.create_study(
        storage=storage, sampler=sampler, study_name=name, directions=["minimize"] * 3, load_if_exists=True
    )
    names = study.metric_names
    if names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(costs.objectives))
    elif tuple(names) != costs.objectives:
        raise UserError(
            f"{path} has objectives {', '.join(names)}, not {', '.join(costs.objectives)}; use another run name"
        )
    return study


def start_attrs(space: SearchSpace, record: CandidateRecord) -> dict[str, Any]:
    """User attributes that are known when a candidate is proposed."""
    words = " ".join(f"{stage}:{name}" for stage, name in record.options.items())
    costs = {"latency_ms": record.latency_ms, "num_params": record.num_params, "num_macs": record.num_macs}
    return {"candidate": record.candidate, "words": words, "costs": costs, "trial": record.trial}


def end_attrs(record: CandidateRecord) -> dict[str, Any]:
    """User attributes that are known when a candidate is finished."""
    attrs: dict[str, Any] = {"seconds": record.seconds, "metrics": record.metrics, "worker": record.worker}
    if record.outcome == "stopped":
        attrs[FORECAST] = [[record.predicted_low, record.predicted_high]]
    return attrs | ({"reason": record.reason} if record.reason else {})


def values_of(record: CandidateRecord, costs: KnownCosts) -> list[float]:
    """Objective values (error, latency, parameters) of a done record, of a stopped one with the error predicted."""
    error = record.predicted_error if record.outcome == "stopped" else record.metrics[costs.error]
    assert error is not None
    return [error, record.latency_ms, float(record.num_params)]


def finish(study: optuna.Study, number: int, record: CandidateRecord, costs: KnownCosts) -> None:
    """Tell the study how the evaluation behind trial `number` ended; a failed one never stays RUNNING."""
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)  # no public way
    for key, value in end_attrs(record).items():
        study._storage.set_trial_user_attr(trial_id, key, value)
    if record.outcome in _WITH_VALUES:
        study.tell(number, values_of(record, costs))
    else:
        study.tell(number, state=TrialState.FAIL)


def fail(study: optuna.Study, number: int, reason: str) -> None:
    """Tell the study that an evaluation ended without a record."""
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    study._storage.set_trial_user_attr(trial_id, "reason", reason)
    study.tell(number, state=TrialState.FAIL)


def replay(study: optuna.Study, space: SearchSpace, store: CandidateStore, costs: KnownCosts) -> list[Indices]:
    """Bring the study up to the store after a stop of any kind.

    Records that the study does not know are told (or added, all with one write); trials left RUNNING by a killed driver
    are failed with the reason 'interrupted'. Of records that the study knows only names and outcomes are read.

    Returns:
        Index vectors of the candidates that were proposed and have no record, because an earlier sweep was interrupted
        or the record was lost: to be evaluated first.
    """
    trials = study.get_trials(deepcopy=False)
    by_name = {t.user_attrs["trial"]: t for t in trials if "trial" in t.user_attrs}
    table = store.table(np.arange(len(store)), ("candidate", "trial", "outcome"))
    recorded, names, outcomes = (table[name].to_pylist() for name in ("candidate", "trial", "outcome"))
    rows = []
    for row, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
        known = by_name.get(name)
        # Unknown, not told yet, or given up as interrupted a moment before its worker stored it.
        late = known is not None and outcome in _WITH_VALUES and known.state == TrialState.FAIL
        if outcome != "infeasible" and (known is None or late or known.state in UNFINISHED):
            rows.append(row)
    new = []
    for record in store.at(np.array(rows, dtype=np.int64)):
        known = by_name.get(record.trial)
        if known is not None and known.state in UNFINISHED:
            finish(study, known.number, record, costs)
        else:
            new.append(record)
    if new:
        storage = study._storage
        assert isinstance(storage, StudyJournal)
        choices = distributions(space)
        storage.add_trials(study, [_frozen(space, record, costs, choices) for record in new])
    for trial in study.get_trials(deepcopy=False, states=UNFINISHED):
        fail(study, trial.number, INTERRUPTED)
    return _without_record(study, space, set(recorded))


def _without_record(study: optuna.Study, space: SearchSpace, recorded: set[str]) -> list[Indices]:
    """Candidates that were proposed and of which the store knows nothing."""
    wanted = {decision.name for decision in space.free_decisions}
    again: dict[tuple[int, ...], Indices] = {}
    for trial in study.get_trials(deepcopy=False):
        # Without its parameters: killed while it was being proposed.
        if trial.user_attrs.get("candidate") not in recorded and wanted <= set(trial.params):
            vector = vector_of(space, trial.params)
            if space.decode(vector).id not in recorded:
                again[tuple(vector)] = vector
    return list(again.values())


def _frozen(
    space: SearchSpace, record: CandidateRecord, costs: KnownCosts, choices: dict[str, BaseDistribution]
) -> FrozenTrial:
    """A finished trial; without `create_trial`, whose checks take most of its time."""
    done = record.outcome in _WITH_VALUES
    at = _when(record.finished_at)
    return FrozenTrial(
        number=-1,  # given by the study, as is the id
        trial_id=-1,
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        value=None,
        values=values_of(record, costs) if done else None,
        datetime_start=at - timedelta(seconds=record.seconds),
        datetime_complete=at,
        params=params_of(space, np.array(record.vector)),
        distributions=choices,
        user_attrs=start_attrs(space, record) | end_attrs(record),
        system_attrs={},
        intermediate_values={},
    )


def _when(finished_at: str) -> datetime:
    return datetime.fromisoformat(finished_at) if finished_at else datetime.now(UTC)
