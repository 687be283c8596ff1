"""Optuna's journal of a run's study: quick to open and to append to, also with a hundred thousand trials."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)


class JournalFile(JournalFileBackend):
    """Optuna's journal file without its wait for the disk after every attribute (20 of 4 ms a trial).

    What a power cut takes from it is in the store, whose records do wait for the disk, and comes back from there.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._one_writer = str(path), JournalFileSymlinkLock(str(path))
        self._held: list[dict[str, Any]] | None = None
        self._first_held = 0
        super().__init__(self._path, self._one_writer)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._held is not None:
            self._held += logs
        else:
            self._write(logs)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        if self._held is None:
            yield from super().read_logs(log_number_from)
        else:
            yield from self._held[log_number_from - self._first_held :]

    @contextlib.contextmanager
    def together(self, num_read: int) -> Iterator[None]:
        """Write what the block appends at once, at its end; the only reader meanwhile has read `num_read` lines."""
        self._held, self._first_held = [], num_read
        try:
            yield
        finally:
            logs, self._held = self._held, None
            if logs:
                self._write(logs)

    def _write(self, logs: list[dict[str, Any]]) -> None:
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


class StudyJournal(JournalStorage):
    """Optuna's storage in a journal file, of which this process is the only writer.

    Which trials are unfinished is kept beside the trials: Optuna asks for the waiting ones before every proposal, and
    would look at all of them.
    """

    def __init__(self, path: Path) -> None:
        self._file = JournalFile(path)
        self._unfinished: dict[int, None] = {}
        with _distributions_remembered():
            super().__init__(self._file)
        for study in self.get_all_studies():
            for trial in super().get_all_trials(study._study_id, deepcopy=False):
                if not trial.state.is_finished():
                    self._unfinished[trial._trial_id] = None

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """As Optuna's."""
        trial_id = super().create_new_trial(study_id, template_trial)
        if template_trial is None or not template_trial.state.is_finished():
            self._unfinished[trial_id] = None
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """As Optuna's."""
        found = super().set_trial_state_values(trial_id, state, values)
        if state.is_finished():
            self._unfinished.pop(trial_id, None)
        return found

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """As Optuna's; unfinished trials are found without a look at the others."""
        if states is None or deepcopy or any(s in states for s in TrialState if s.is_finished()):
            return super().get_all_trials(study_id, deepcopy, states)
        found = [self.get_trial(trial_id) for trial_id in self._unfinished]
        return [trial for trial in found if trial.state in states]

    def add_trials(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        """Add finished trials with one write; they must be whole."""
        with _distributions_remembered(), self._file.together(self._replay_result.log_number_read):
            for trial in trials:
                self.create_new_trial(study._study_id, trial)


@contextlib.contextmanager
def _distributions_remembered() -> Iterator[None]:
    """Let Optuna's journal turn each distribution into text and back once, instead of once a trial."""
    # Four fifths of the time that a trial takes; where another version of Optuna has other names, it takes that time.
    from optuna.storages.journal import _storage

    remember: dict[str, Callable[[Callable[[Any], Any]], Callable[[Any], Any]]]
    remember = {"distribution_to_json": _by_identity, "json_to_distribution": functools.lru_cache(maxsize=None)}
    before = {name: getattr(_storage, name) for name in remember if hasattr(_storage, name)}
    for name, function in before.items():
        setattr(_storage, name, remember[name](function))
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(_storage, name, function)


def _by_identity(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function, called once for each object; comparing distributions would take longer than the function does."""
    known: dict[int, tuple[Any, Any]] = {}

    def remembered(given: Any) -> Any:
        if id(given) not in known:
            known[id(given)] = (given, function(given))  # the object stays, so that no other has its identity
        return known[id(given)][1]

    return remembered


def release_stale_lock(path: Path) -> None:
    """Remove the lock of a journal whose writer was killed."""
    # The run is locked by its owner, so a lock found at the start belongs to a killed process; Optuna itself would
    # wait 30 s for it.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{path}.lock")


def cut_torn_line(path: Path) -> None:
    """Cut off a last line that a crash has torn.

    Raises:
        ValueError: the last line is whole and yet no record.
    """
    if not path.exists():
        return
    with open(path, "rb+") as file:
        start = end = file.seek(0, os.SEEK_END)
        last = b""
        while start and last.count(b"\n", 0, -1) < 1:
            start = max(0, start - 65536)
            file.seek(start)
            last = file.read(end - start)
        whole = last.rfind(b"\n") + 1
        if whole != len(last):
            file.truncate(start + whole)
            return
        # A line can be whole and yet half a record, if the crash lost a page in the middle: Optuna raises then.
        json.loads((last.splitlines()[-1:] or [b"{}"])[0])
