"""One quiet line of progress a phase: a live one on a terminal, an occasional plain one elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from search_spaces.errors import UserError

# Least time between two plain lines of one phase.
_PLAIN_SECONDS = 15.0


def duration(seconds: float) -> str:
    """Return seconds in the words of a progress line: `8 s`, `2 min 05 s`, `3 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Phase:
    """One phase under way: how much of `total` is done, since when, and named counts."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total = name, total
        self.done = 0
        self.counts: dict[str, float | int | str] = {}
        self.skipped = 0
        self.on_change: Callable[[Phase], None] | None = None
        """Called when something was counted."""
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the phase began."""
        return time.monotonic() - self._start

    def advance(self, n: int = 1, **counts: float | int | str) -> None:
        """Count n more units as done and set named counts (failed, infeasible, front ...); "" names a bare remark."""
        self.done += n
        self.counts.update(counts)
        if self.on_change is not None:
            self.on_change(self)

    def skip(self, n: int, **counts: float | int | str) -> None:
        """Count n units that an earlier process finished: done, but no evidence of this one's speed."""
        self.skipped += n
        self.advance(n, **counts)

    @property
    def remaining_s(self) -> float | None:
        """Seconds left at the speed so far; None while unknown."""
        worked = self.done - self.skipped
        if self.total is None or worked <= 0:
            return None
        return self.seconds / worked * max(0, self.total - self.done)

    def line(self, finished: bool = False) -> str:
        """Return the phase as one line: name, done of total, time left (or taken), counts."""
        amount = f"{self.done}" if self.total is None else f"{self.done}/{self.total}"
        if finished:
            when = f"{duration(self.seconds)}"
        elif self.remaining_s is None:
            when = f"{duration(self.seconds)} so far"
        else:
            when = f"{duration(self.remaining_s)} left"
        counts = [f"{name.replace('_', ' ')} {_number(value)}".strip() for name, value in self.counts.items()]
        return "  ".join([f"{self.name:<10}", f"{amount:>9}", f"{when:>14}", ", ".join(counts)]).rstrip()


class Progress:
    """Shows phases one after the other on `stream` (standard error) and keeps how long each took.

    `live` (default: whether the stream is a terminal) redraws one line; otherwise a plain line is printed when a
    phase has run for a while and when it ends. `silent` prints nothing.
    """

    def __init__(self, stream: TextIO | None = None, live: bool | None = None, silent: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty() if live is None else live
        self._silent = silent
        self.seconds: dict[str, float] = {}
        self._on_change: Callable[[Phase], None] | None = None

    @contextmanager
    def followed(self, on_change: Callable[[Phase], None]) -> Iterator[None]:
        """Within the block, call `on_change` when a phase begins and when something of it was counted."""
        self._on_change = on_change
        try:
            yield
        finally:
            self._on_change = None

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """Run one phase; its line stays when it ends, and says so when it is broken off by an error."""
        phase = _PlainPhase(name, total, self._say) if not self._live else Phase(name, total)
        phase.on_change = self._on_change
        if self._on_change is not None:
            self._on_change(phase)
        stopped: str | None = "  (interrupted)"
        try:
            if self._live and not self._silent:
                with self._redrawn(phase):
                    yield phase
            else:
                yield phase
            stopped = ""
        except UserError:
            stopped = None  # the error's own line says what there is to say
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + phase.seconds
            if stopped is not None:
                self._say(phase.line(finished=True) + stopped)

    def _say(self, line: str) -> None:
        if not self._silent:
            print(line, file=self._stream, flush=True)

    @contextmanager
    def _redrawn(self, phase: Phase) -> Iterator[None]:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        console = Console(file=self._stream, highlight=False)

        def draw() -> Text:
            return Text(phase.line(), no_wrap=True, overflow="ellipsis")

        with Live(console=console, get_renderable=draw, refresh_per_second=4, transient=True):
            yield


class _PlainPhase(Phase):
    """A phase that prints itself at most every few seconds, for logs."""

    def __init__(self, name: str, total: int | None, say: Callable[[str], None]) -> None:
        super().__init__(name, total)
        self._say, self._said = say, time.monotonic()

    def advance(self, n: int = 1, **counts: float | int | str) -> None:
        super().advance(n, **counts)
        now = time.monotonic()
        if now - self._said >= _PLAIN_SECONDS and self.done != self.total:
            self._said = now
            self._say(self.line())


def _number(value: float | int | str) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
