"""The end of a run's Optuna journal, followed as it grows: what was proposed, why, and what came out.

The journal of a long sweep is large (4 kB a trial), and only its end is of interest to who looks on. So it is read
from some megabytes before its end, line by line, without Optuna; trials are numbered in it, so that nothing before is
needed.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas.search.record import FORECAST

# Operations of Optuna's journal (optuna.storages.journal, JournalOperation) and the states that end a trial.
_SET_STATE, _SET_ATTR = 6, 8
_COMPLETE, _PRUNED, _FAIL = 1, 2, 3
_MARKS = (b'"op_code":6,', b'"op_code":8,', b'"op_code": 6,', b'"op_code": 8,')

TAIL_BYTES = 16 * 2**20
KEPT_TRIALS = 2_000


@dataclass
class Trial:
    """One trial, as far as the journal tells."""

    number: int
    attrs: dict[str, Any] = field(default_factory=dict)
    """User attributes: `candidate`, `words`, `costs`, `trial` (name of the evaluation), `proposal`, `reason` ..."""
    state: int = 0
    values: tuple[float, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether it has a result, or will have none."""
        return self.state in (_COMPLETE, _PRUNED, _FAIL)

    @property
    def measured(self) -> float | None:
        """The first objective, if it came out."""
        return self.values[0] if self.state == _COMPLETE and self.values and not self.stopped else None

    @property
    def stopped(self) -> bool:
        """Whether it was stopped at a rung: its value was never measured, samplers are told the expected one."""
        return self.state == _COMPLETE and FORECAST in self.attrs

    @property
    def predicted(self) -> tuple[float, float, float] | None:
        """5 %, 50 % and 95 % quantiles of the first unknown objective before the evaluation."""
        try:
            low, middle, high = (float(value) for value in self.attrs["proposal"]["predicted"][0])
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        return (low, middle, high) if math.isfinite(low + middle + high) else None

    def reason_number(self, name: str) -> float | None:
        """A number of the proposal's reasons."""
        proposal = self.attrs.get("proposal")
        value = proposal.get(name) if isinstance(proposal, dict) else None
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


class StudyTail:
    """Follows `study.log`. Lines that are no operations (a torn or damaged one) are passed over.

    Args:
        path: of the journal; it need not exist yet.
        tail_bytes: of an existing one, so many are read.
    """

    def __init__(self, path: Path, tail_bytes: int = TAIL_BYTES) -> None:
        self.path, self._tail_bytes = path, tail_bytes
        self._forget()

    def _forget(self) -> None:
        self._offset: int | None = None
        self._inode = 0
        self.trials: dict[int, Trial] = {}
        self.version = 0
        """Grows when something was read."""

    def refresh(self) -> None:
        """Read what was added."""
        try:
            with open(self.path, "rb") as file:
                facts = os.fstat(file.fileno())
                if self._offset is not None and (facts.st_size < self._offset or facts.st_ino != self._inode):
                    version = self.version
                    self._forget()  # set aside as damaged, and begun anew
                    self.version = version + 1
                if self._offset is None:
                    self._inode = facts.st_ino
                    self._offset = max(0, facts.st_size - self._tail_bytes)
                    if self._offset:
                        file.seek(self._offset)
                        self._offset += len(file.readline())
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        end = data.rfind(b"\n") + 1
        if not end:
            return
        self._offset += end
        for line in data[:end].splitlines():
            if any(mark in line[:20] for mark in _MARKS):
                self._take(line)
        for number in sorted(self.trials)[:-KEPT_TRIALS]:
            del self.trials[number]
        self.version += 1

    def _take(self, line: bytes) -> None:
        try:
            data = json.loads(line)
            number = int(data["trial_id"])
            trial = self.trials.get(number) or Trial(number)
            if data["op_code"] == _SET_ATTR:
                trial.attrs.update(data["user_attr"])
            elif data["op_code"] == _SET_STATE:
                trial.state = int(data["state"])
                trial.values = tuple(float(value) for value in data.get("values") or ())
        except (ValueError, KeyError, TypeError):
            return
        self.trials[number] = trial

    def named(self, trial: str | None) -> Trial | None:
        """The trial of an evaluation's name."""
        if trial is None:
            return None
        return next((t for t in reversed(self.trials.values()) if t.attrs.get("trial") == trial), None)

    def last(self, num: int) -> list[Trial]:
        """The trials proposed last, the latest first; those that were asked for but never got a candidate left out."""
        numbers = sorted(self.trials, reverse=True)
        return [self.trials[n] for n in numbers if "candidate" in self.trials[n].attrs][:num]
