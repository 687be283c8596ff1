"""The records of a growing store as arrays, read as they come."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas import pareto
from nas.search.store import CandidateStore

Floats = NDArray[np.float64]
Bounds = tuple[tuple[float, float], tuple[float, float]]

_DIGITS = re.compile(r"\d[\d.,e+-]*")
# Evaluations from which the speed is taken: the last ones, since early ones may have had other company.
SPEED_OVER = 50
# From so many on the hypervolume of all of them takes seconds, and is taken again only where it is worth it.
_MANY = 20_000


@dataclass(frozen=True)
class ReasonGroup:
    """Candidates that ended alike."""

    outcome: str
    reason: str
    """Of the last one; others may have other numbers in it."""
    num: int
    candidate: str
    """The last one."""


class Results:
    """What a store holds, brought up to date by :meth:`refresh`, which costs what was added.

    Args:
        folder: of the store; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._forget()

    def _forget(self) -> None:
        self.store = CandidateStore(self._folder)
        self.num = 0
        """Records read."""
        self.rows = np.empty(0, np.int64)
        """Of the finished candidates (n,), in the order of their ends."""
        self.values: Floats = np.empty((0, 3))
        """(error, latency in ms, parameters) (n, 3)."""
        self.ended: Floats = np.empty(0)
        """Of every record its end in seconds of the epoch, NaN where it has none (`infeasible`, reused)."""
        self.seconds: Floats = np.empty(0)
        self._groups: tuple[int, list[ReasonGroup]] = (-1, [])
        self._history: tuple[int, Floats] = (-1, np.empty(0))
        self._reused = 0

    def refresh(self) -> bool:
        """Read what was added; whether anything was.

        Raises:
            UserError: a damaged record.
        """
        num = len(self.store)
        if num < self.num:  # deleted or cut by hand
            self._forget()
            num = len(self.store)
        if num == self.num:
            return False
        rows, values = self.store.objectives(since=self.num)
        self.rows = np.concatenate([self.rows, rows])
        self.values = np.concatenate([self.values, values])
        table = self.store.table(np.arange(self.num, num), ["finished_at", "seconds", "reused_from"])
        reused = _filled(table, "reused_from", num - self.num)
        self._reused += sum(name is not None for name in reused)
        ends = [
            np.nan if name is not None else _epoch(text)
            for text, name in zip(_filled(table, "finished_at", num - self.num), reused, strict=True)
        ]
        self.ended = np.concatenate([self.ended, ends])
        self.seconds = np.concatenate([self.seconds, np.asarray(_filled(table, "seconds", num - self.num), float)])
        self.num = num
        return True

    @property
    def num_reused(self) -> int:
        """Candidates taken over from other runs."""
        return self._reused

    def groups(self) -> list[ReasonGroup]:
        """Candidates whose last outcome is not `done`, by reason, the most frequent first."""
        if self._groups[0] != self.num:
            counts = self.store.counts()
            some = sum(counts.values()) - counts["done"]
            self._groups = (self.num, self._grouped() if some else [])
        return self._groups[1]

    def _grouped(self) -> list[ReasonGroup]:
        import pyarrow.compute as pc

        table = self.store.table(self.store.latest_rows(), ["candidate", "outcome", "reason"])
        table = table.filter(pc.not_equal(table["outcome"], "done"))
        found: dict[tuple[str, str], ReasonGroup] = {}
        for row in table.to_pylist():
            reason = row.get("reason") or "no reason given"
            key = (row["outcome"], _DIGITS.sub("#", reason))
            num = found[key].num + 1 if key in found else 1
            found[key] = ReasonGroup(row["outcome"], reason, num, row["candidate"])
        return sorted(found.values(), key=lambda group: -group.num)

    def history(self, bounds: Bounds | None) -> Floats:
        """Hypervolume after each finished candidate (n,), by the rule of :mod:`nas.pareto`.

        Args:
            bounds: (least, largest) latency and parameters of the space; None: of what was evaluated.
        """
        num = len(self.values)
        known, history = self._history
        if known >= 0 and known <= num < known + max(1, known // 100 if num > _MANY else 1):
            return np.concatenate([history, np.full(num - known, history[-1] if known else 0.0)])
        if num:
            limits = None if bounds is None else tuple(np.array(bounds, float).T)
            scale = pareto.ObjectiveScale.of(self.values, limits)
            history = pareto.hypervolume_history(self.values, scale)
        else:
            history = np.empty(0)
        self._history = (num, history)
        return history

    def per_second(self, since: float | None, now: float | None, done_only: bool = False) -> float | None:
        """Evaluations ended a second, of the last ones that ended after `since`; None of fewer than five.

        The interval that is open `now` (None: of a sweep that has ended) counts once it is longer than usual, so that
        a sweep that hangs is seen to.
        """
        ended = self.ended[self.rows] if done_only else self.ended
        ended = ended[-4 * SPEED_OVER :]
        ended = np.sort(ended[np.isfinite(ended) & (ended >= (since or 0.0))])[-SPEED_OVER:]
        if len(ended) < 5 or ended[-1] <= ended[0]:
            return None
        speed = (len(ended) - 1) / (ended[-1] - ended[0])
        late = now is not None and (now - ended[-1]) * speed > 1
        return float(len(ended) / (now - ended[0]) if late and now is not None else speed)

    def mean_seconds(self) -> float | None:
        """Of the last evaluations."""
        last = self.seconds[-4 * SPEED_OVER :][np.isfinite(self.ended[-4 * SPEED_OVER :])][-SPEED_OVER:]
        return float(last.mean()) if len(last) else None


def _filled(table: Any, name: str, num: int) -> list[Any]:
    return table[name].to_pylist() if name in table.column_names else [None] * num


def _epoch(text: str | None) -> float:
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return float("nan")
