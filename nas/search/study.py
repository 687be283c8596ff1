"""The Optuna study of a run: a view of the store that samplers and optuna-dashboard read."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas.search.decisions import distributions, params_of, vector_of
from nas.search.settings import Indices, KnownCosts
from nas.search.store import CandidateRecord
from nas.search.trial_history import FORECAST
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

JOURNAL = "study.log"
INTERRUPTED = "interrupted"

# What samplers learn from: a stopped evaluation says what the error was going to be, not that there is none.
_WITH_VALUES = ("done", "stopped")
UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


class _Journal(JournalFileBackend):
    """Optuna's journal file without its wait for the disk after every attribute (20 of 4 ms a trial).

    What a power cut takes from it is in the store, whose records do wait for the disk, and comes back from there.
    """

    def __init__(self, path: str) -> None:
        self._path, self._one_writer = path, JournalFileSymlinkLock(path)
        super().__init__(path, self._one_writer)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        data = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._one_writer.acquire()
        try:
            size = os.path.getsize(self._path)
            try:
                with open(self._path, "ab", buffering=0) as file:
                    if file.write(data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
            except OSError:
                os.truncate(self._path, size)  # no half line that the next one would be glued to
                raise
        finally:
            self._one_writer.release()


def open_study(run_dir: Path, costs: KnownCosts, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """Open or make the study in `run_dir/study.log`, three objectives, all minimised.

    A last line torn by a crash is cut off; a lock that a killed process left behind is removed. A journal that
    cannot be read at all is set aside as `study.log.damaged` and made anew: the store has everything in it.

    Raises:
        UserError: the file cannot be written, or its study has other objectives.
    """
    path = run_dir / JOURNAL
    try:
        _release_stale_lock(path)
        _cut_torn_line(path)
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
    storage = JournalStorage(_Journal(str(path)))
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


def _release_stale_lock(path: Path) -> None:
    # The run is locked by its owner, so a lock found at the start belongs to a killed process; Optuna itself would
    # wait 30 s for it.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end != len(data):
            file.truncate(end)
            return
        # A line can be whole and yet half a record, if the crash lost a page in the middle: Optuna raises then.
        last = data[:end].splitlines()[-1:] or [b"{}"]
        json.loads(last[0])


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


def replay(
    study: optuna.Study, space: SearchSpace, records: Sequence[CandidateRecord], costs: KnownCosts
) -> list[Indices]:
    """Bring the study up to the store after a stop of any kind.

    Records that the study does not know are told (or added); trials left RUNNING by a killed driver are failed with
    the reason 'interrupted'.

    Returns:
        Index vectors of the interrupted candidates that have no record: to be evaluated first.
    """
    trials = study.get_trials(deepcopy=False)
    by_name = {t.user_attrs["trial"]: t for t in trials if "trial" in t.user_attrs}
    for record in records:
        if record.outcome == "infeasible":
            continue
        known = by_name.get(record.trial)
        if known is not None and known.state in UNFINISHED:
            finish(study, known.number, record, costs)
        elif known is None or (record.outcome in _WITH_VALUES and known.state == TrialState.FAIL):
            # Unknown, or given up as interrupted a moment before its worker stored it.
            study.add_trial(_frozen(space, record, costs))
    recorded = {record.candidate for record in records}
    again: dict[tuple[int, ...], Indices] = {}
    for trial in study.get_trials(deepcopy=False, states=UNFINISHED):
        wanted = {decision.name for decision in space.free_decisions}
        if wanted <= set(trial.params):  # else killed while it was being proposed
            vector = vector_of(space, trial.params)
            if space.decode(vector).id not in recorded:
                again[tuple(vector)] = vector
        fail(study, trial.number, INTERRUPTED)
    return list(again.values())


def _frozen(space: SearchSpace, record: CandidateRecord, costs: KnownCosts) -> FrozenTrial:
    import numpy as np

    done = record.outcome in _WITH_VALUES
    return create_trial(
        state=TrialState.COMPLETE if done else TrialState.FAIL,
        values=values_of(record, costs) if done else None,
        params=params_of(space, np.array(record.vector)),
        distributions=distributions(space),
        user_attrs=start_attrs(space, record) | end_attrs(record),
    )
