"""What every importer must offer, and what they share; tests/contracts/test_importers.py holds all of them to it."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import ValidationError

from latency_predictors.importers.records import (
    Facts,
    ImportedMeasurement,
    OperatorLatency,
    Provenance,
    Row,
    RowFlag,
    at,
)
from latency_predictors.measurement import median_interval
from search_spaces.errors import UserError

Unit = Literal["s", "ms", "us"]
MS_PER_UNIT: dict[Unit, float] = {"s": 1e3, "ms": 1.0, "us": 1e-3}
MAX_BYTES = 128 << 20
_LEAST_MS, _MOST_MS = 1e-6, 8.64e7  # a nanosecond and a day: beyond them a figure is no latency
_LEAST_RUNS = 6
# Every pattern on a stranger's text is one that cannot try the same text in several ways.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


class RowError(ValueError):
    """A row cannot be used; the message says why, the importer knows the row."""


@dataclass(frozen=True)
class Source:
    """A file as it was read, once: what is parsed is what the SHA-256 was taken of.

    Lines of `text` end in "\\n", however they end in the file (Excel writes all three kinds).
    """

    name: str
    stem: str
    sha256: str
    text: str

    def error(self, row: Row, reason: str) -> UserError:
        """The error of a file that cannot be read on."""
        return UserError(f"{self.name}, {at(row)}: {one_line(reason)}")


@runtime_checkable
class Importer(Protocol):
    """Reads one format of measurement files."""

    @property
    def format(self) -> str:
        """The format's name on the command line."""

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Fields that rows have in common whose latencies are of one order of magnitude (see checks)."""

    def recognises(self, source: Source) -> bool:
        """Whether the content looks like this format: at a glance, and like no other."""

    def read(self, source: Source, reading: Reading) -> None:
        """Adds the rows of the file to `reading`.

        Raises UserError, with row or path, for a file whose rows cannot be told apart; a single bad
        row is refused in `reading` and the next one read.
        """


class Reading:
    """Collects the rows of a file: measurements, completed with what the caller knows, and flags."""

    def __init__(self, source: Source, format: str, facts: Facts) -> None:
        self.facts = facts
        self.measurements: list[ImportedMeasurement] = []
        self.operators: list[OperatorLatency] = []
        self.flags: list[RowFlag] = []
        self._source = source
        self._format = format

    def add(self, row: Row, **stated: Any) -> bool:
        """A measurement with the fields that the file states (None: not stated), the facts filled in.

        Returns whether it was kept: a row that contradicts the facts, or has an illegal field, is refused.
        """
        for name, known in self.facts.model_dump(exclude={"warm_up_runs"}).items():
            said = stated.get(name)
            if known is not None and said is not None and said != known:
                self.refuse(row, f"{name} is {short(said)}, wanted is {known!r}")
                return False
            stated[name] = known if said is None else said
        if stated["subject"] is None:
            stated["subject"] = self._source.stem
        provenance = Provenance(file=self._source.name, sha256=self._source.sha256, format=self._format, row=row)
        try:
            self.measurements.append(ImportedMeasurement(**stated, provenance=provenance))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            self.refuse(row, f"{field} is {short(first['input'])}: {first['msg']}")
            return False
        return True

    def refuse(self, row: Row, reason: str, *, is_blank: bool = False) -> None:
        """Leaves the row out and says why."""
        self.flags.append(RowFlag(row, one_line(reason), is_blank=is_blank))

    def remark(self, row: Row, reason: str) -> None:
        """Keeps the row and says what to know about it."""
        self.flags.append(RowFlag(row, one_line(reason), refused=False))


def load(path: Path) -> Source:
    """Reads a text file of at most 128 MiB; UserError if it is no such file."""
    name = one_line(path.name)
    if not path.is_file():
        raise UserError(f"measurement file {str(path)!r}: there is no such file; give the file that the tool wrote")
    try:
        with path.open("rb") as file:
            large = os.fstat(file.fileno()).st_size > MAX_BYTES
            data = b"" if large else file.read(MAX_BYTES + 1)  # the limit again: a log may still grow
    except OSError as error:
        raise UserError(f"measurement file {str(path)!r}: {error.strerror}; give a file that can be read") from None
    if large or len(data) > MAX_BYTES:
        raise UserError(f"{name}: larger than {MAX_BYTES >> 20} MiB; profile fewer runs, or split the file by rows")
    try:
        text = _unix(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        row = _unix(error.object[: error.start].decode()).count("\n") + 1
        raise UserError(f"{name}, row {row}: not UTF-8 text; save the file as UTF-8") from None
    if "\0" in text:
        row = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{name}, row {row}: a NUL character, so this is no text; save the file as UTF-8")
    return Source(name, path.stem, hashlib.sha256(data).hexdigest(), text)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def number(value: object, what: str) -> float:
    """A finite number from a JSON number or from text; RowError, naming `what`, for anything else."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        found = float(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    elif isinstance(value, str) and value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
        found = math.nan
    else:
        raise RowError(f"{what} is {short(value)}, not a number")
    if not math.isfinite(found):
        raise RowError(f"{what} is {short(value)}; a finite number is needed")
    return found


def latency_ms(value: object, unit: Unit, what: str) -> float:
    """A latency in milliseconds from a figure in `unit`: the one place where units are converted.

    RowError unless it is positive and lies between a nanosecond and a day.
    """
    found = number(value, what)
    if found <= 0:
        raise RowError(f"{what} is {short(value)}; a latency is greater than zero")
    ms = found * MS_PER_UNIT[unit]
    if not _LEAST_MS <= ms <= _MOST_MS:
        raise RowError(f"{what} is {short(value)} {unit}, not between a nanosecond and a day; check its unit")
    return ms


def median_of_runs(runs_ms: Sequence[float]) -> dict[str, Any]:
    """The fields of a measurement that single runs (milliseconds, at least one) tell: median, number, 95 % interval.

    The interval is that of :func:`latency_predictors.measurement.median_interval`; None for fewer than 6 runs, of which
    not even the whole range covers the median in 95 cases of 100.
    """
    ordered = sorted(runs_ms)
    low, high = median_interval(len(ordered))
    return {
        "latency_ms": float(np.median(ordered)),
        "statistic": "median",
        "num_samples": len(ordered),
        "ci95_ms": (ordered[low], ordered[high]) if len(ordered) >= _LEAST_RUNS else None,
    }


def whole(value: object, what: str, least: int = 0) -> int:
    """An integer of at least `least`; RowError for anything else."""
    found = number(value, what)
    if found != int(found) or found < least or found > 2**63:
        raise RowError(f"{what} is {short(value)}; a whole number from {least} on is needed")
    return int(found)


def one_line(text: str) -> str:
    """Text without line breaks and other characters that a terminal would act on."""
    return "".join(c if c.isprintable() else " " for c in text)


def short(value: object) -> str:
    """A value as one line of at most 60 characters."""
    if isinstance(value, str | list | dict | tuple) and len(value) > 60:
        # repr of a large value would take its time for nothing.
        value = value[:60] if isinstance(value, str) else f"{type(value).__name__} of {len(value)}"
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # an int of more digits than Python prints, nesting beyond its stack
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else text[:57] + "..."
