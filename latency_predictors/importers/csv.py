"""CSV written by hand or by a script: the columns are in docs/measurement-files.md."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

from latency_predictors.importers.base import (
    Reading,
    RowError,
    Source,
    Unit,
    latency_ms,
    median_of_runs,
    number,
    short,
    whole,
)
from latency_predictors.importers.checks import off_unit, unit_reason

LATENCY_COLUMNS: dict[str, Unit] = {"latency_ms": "ms", "latency_us": "us", "latency_s": "s"}
INTERVAL_COLUMNS = {f"latency_{unit}": (f"ci95_low_{unit}", f"ci95_high_{unit}") for unit in LATENCY_COLUMNS.values()}
TEXT_COLUMNS = ("subject", "device", "runtime", "precision", "toolchain", "compute_unit", "statistic")
COUNT_COLUMNS = {"threads": 1, "num_samples": 1, "peak_memory_bytes": 0}
COLUMNS = (
    "subject",
    *LATENCY_COLUMNS,
    *(name for names in INTERVAL_COLUMNS.values() for name in names),
    *TEXT_COLUMNS[1:],
    *COUNT_COLUMNS,
    "peak_memory_mib",
    "run",
    "note",
)
_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass
class _Runs:
    """Rows that differ only in their run: the samples of one measurement."""

    stated: dict[str, Any]
    rows: list[int] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


class CsvImporter:
    """Importer (see base) of comma-separated rows under a header that names the unit: `subject,latency_ms`."""

    format = "csv"
    neighbours = ("device", "runtime", "precision")

    def recognises(self, source: Source) -> bool:
        """The first line names a subject or a latency, between commas or what people take for commas."""
        header = source.text.lstrip().partition("\n")[0].lower()
        columns = [c.strip().strip('"') for c in header.replace(";", ",").replace("\t", ",").split(",")]
        return len(columns) > 1 and ("subject" in columns or any(c.startswith("latency") for c in columns))

    def read(self, source: Source, reading: Reading) -> None:
        """One measurement a row, or with a column `run` the median of the rows that are otherwise equal."""
        records = _records(source)
        start, header = next(records, (1, []))
        columns = [name.strip().lower() for name in header]
        latency = _check_header(source, start, columns)
        groups: dict[Hashable, _Runs] = {}
        seen_runs: dict[Hashable, dict[int, int]] = defaultdict(dict)
        for row, cells in records:
            if len(cells) != len(columns):
                reading.refuse(row, f"{len(cells)} cells under {len(columns)} columns")
                continue
            texts = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            if not texts[latency]:
                reading.refuse(row, f"{latency} is empty; fill it in", is_blank=True)
                continue
            try:
                ms = latency_ms(texts[latency], LATENCY_COLUMNS[latency], latency)
                run = whole(texts["run"], "run") if "run" in texts else None
                stated = _stated(texts) | {"ci95_ms": _interval(texts, latency, ms, is_run=run is not None)}
            except RowError as error:
                reading.refuse(row, str(error))
                continue
            if run is None:
                reading.add(row, latency_ms=ms, **stated)
                continue
            key = tuple(stated.items())
            first = seen_runs[key].setdefault(run, row)
            if first != row:
                reading.refuse(row, f"run {run} of {short(stated['subject'])} is that of row {first}; keep one")
                continue
            runs = groups.setdefault(key, _Runs(stated))
            runs.rows.append(row)
            runs.latencies_ms.append(ms)
        for runs in groups.values():
            _add_runs(reading, runs)


def _records(source: Source) -> Iterator[tuple[int, list[str]]]:
    """Non-blank records with the line they begin on: a quoted cell may go over several."""
    reader = csv.reader(io.StringIO(source.text, newline=""), strict=True)
    while True:
        row = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise source.error(row, f"not readable as CSV: {error}; mend the quotes of this row") from None
        if any(cell.strip() for cell in cells):
            yield row, cells


def _check_header(source: Source, row: int, columns: list[str]) -> str:
    """The name of the latency's column."""
    if len(columns) == 1 and any(c in columns[0] for c in ";\t"):
        raise source.error(row, "columns are not separated by commas; save the file with commas, and points in numbers")
    for name in columns:
        if name not in COLUMNS:
            unit = "" if name.startswith("peak") else _unit_hint(name)
            raise source.error(row, f"column {short(name)} is not known{unit}; legal are {', '.join(COLUMNS)}")
        if columns.count(name) > 1:
            raise source.error(row, f"column {name!r} is given twice; keep one")
    latencies = [name for name in columns if name in LATENCY_COLUMNS]
    if "subject" not in columns or len(latencies) != 1:
        raise source.error(
            row,
            f"columns {short(columns)}; needed are subject and one of {', '.join(LATENCY_COLUMNS)}",
        )
    _check_interval(source, row, columns, latencies[0])
    return latencies[0]


def _check_interval(source: Source, row: int, columns: list[str], latency: str) -> None:
    """One unit for a latency and both ends of its interval, so that none is read in another."""
    given = [name for names in INTERVAL_COLUMNS.values() for name in names if name in columns]
    low, high = INTERVAL_COLUMNS[latency]
    if given and set(given) != {low, high}:
        raise source.error(row, f"columns {', '.join(given)} beside {latency}: needed are {low} and {high}, or neither")


def _unit_hint(name: str) -> str:
    looks = any(word in name for word in ("latency", "time", "ms", "dur", "sec", "ci95"))
    return " (a latency's unit is part of its column's name)" if looks else ""


def _stated(texts: dict[str, str]) -> dict[str, Any]:
    """The fields of a row but for latency and run; an empty cell says nothing."""
    stated: dict[str, Any] = {name: texts.get(name) or None for name in TEXT_COLUMNS}
    if stated["subject"] is None:
        raise RowError("subject is empty; name the stage option or the candidate")
    if stated["precision"] is not None:
        precision = stated["precision"].lower()
        stated["precision"] = _PRECISIONS.get(precision, precision)
    if stated["compute_unit"] is not None:
        stated["compute_unit"] = stated["compute_unit"].upper()
    for name, least in COUNT_COLUMNS.items():
        stated[name] = whole(texts[name], name, least) if texts.get(name) else None
    if texts.get("peak_memory_mib"):
        if stated["peak_memory_bytes"] is not None:
            raise RowError("peak_memory_bytes and peak_memory_mib are both given; keep one")
        mib = number(texts["peak_memory_mib"], "peak_memory_mib")
        stated["peak_memory_bytes"] = whole(round(mib * 2**20), "peak_memory_mib")
    return stated


def _interval(texts: dict[str, str], latency: str, ms: float, *, is_run: bool) -> tuple[float, float] | None:
    """Ends of the 95 % interval in milliseconds; None where both cells are empty."""
    names = INTERVAL_COLUMNS[latency]
    cells = [texts.get(name, "") for name in names]
    if not any(cells):
        return None
    if is_run:
        raise RowError(f"{names[0]}: a single run has no interval; it is taken from the runs, leave the cells empty")
    for name, cell in zip(names, cells, strict=True):
        if not cell:
            raise RowError(f"{name} is empty; give both ends of the interval, or neither")
    unit = LATENCY_COLUMNS[latency]
    low, high = (latency_ms(cell, unit, name) for name, cell in zip(names, cells, strict=True))
    if not low <= ms <= high:
        shown = " to ".join(map(short, cells))
        raise RowError(f"{latency} is {short(texts[latency])}, outside of its 95 % interval {shown}; check the units")
    return low, high


def _add_runs(reading: Reading, runs: _Runs) -> None:
    """The median of the runs; a run in another unit than the others is refused by its own row."""
    wrong = off_unit(runs.latencies_ms)
    for index, ratio in wrong.items():
        kind = f"{len(runs.rows)} runs of {short(runs.stated['subject'])}"
        reading.refuse(runs.rows[index], unit_reason(runs.latencies_ms[index], ratio, kind))
    kept = [ms for index, ms in enumerate(runs.latencies_ms) if index not in wrong]
    reading.add(runs.rows[0], **(runs.stated | median_of_runs(kept)))
