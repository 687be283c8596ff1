"""Result files of onnxruntime_perf_test: headerless rows `model,time_s,peak_bytes,cpu_percent,run`.

Source: onnxruntime/test/perftest/performance_result.h. The tool appends to an existing file, so one file
may hold several calls; a call's runs count up from 0. Its warm-up run is not among them. With statistics
on, lines such as "P50 Latency: 0.0123 s" follow the rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from latency_predictors.importers.base import Reading, RowError, Source, latency_ms, load, median_of_runs, short, whole
from latency_predictors.importers.checks import off_unit, unit_reason
from latency_predictors.importers.records import Facts

_STATISTICS = re.compile(r"(Min|Max|P\d+) Latency\b")
_NUM_FIELDS = 5


@dataclass
class _Call:
    """Runs of one call of the tool."""

    model: str
    rows: list[int] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    last_run: int = -1


class PerfTestImporter:
    """Importer (see base) of onnxruntime_perf_test's result file; `model` is the name of the model's folder."""

    format = "onnxruntime-perf-test"
    neighbours = ("device", "runtime", "precision")

    def recognises(self, source: Source) -> bool:
        """The first line is a row: four numbers after the name."""
        first = source.text.lstrip().partition("\n")[0]
        numbers = first.rsplit(",", _NUM_FIELDS - 1)[1:]
        return len(numbers) == _NUM_FIELDS - 1 and all(re.fullmatch(r"[\d.eE+-]+", n.strip()) for n in numbers)

    def read(self, source: Source, reading: Reading) -> None:
        """One measurement for each call of the tool: the median of its runs."""
        for call in _calls(source, reading):
            _add(reading, call)


def read_runs_ms(path: Path) -> list[float]:
    """Each run of a file of one call, in order, milliseconds; UserError, with its row, for a bad one."""
    source = load(path)
    reading = Reading(source, PerfTestImporter.format, Facts())
    calls = _calls(source, reading)
    for flag in reading.flags:
        raise source.error(flag.row, flag.reason)
    if len(calls) != 1:
        raise source.error(1, f"runs of {len(calls)} calls are in it, wanted are those of one")
    return calls[0].latencies_ms


def _calls(source: Source, reading: Reading) -> list[_Call]:
    """The calls in a file; bad rows are refused in `reading`."""
    calls: list[_Call] = []
    for row, line in enumerate(source.text.split("\n"), start=1):
        if not line.strip() or _STATISTICS.match(line.strip()):
            continue
        fields = [text.strip() for text in line.rsplit(",", _NUM_FIELDS - 1)]
        try:
            if len(fields) != _NUM_FIELDS or not fields[0]:
                raise RowError(f"{short(line)} is not model,time_s,peak_bytes,cpu_percent,run")
            run = whole(fields[4], "run")
            peak_bytes = whole(fields[2], "peak_bytes")
            ms = _run_ms(fields[1])
        except RowError as error:
            reading.refuse(row, str(error))
            continue
        if not calls or calls[-1].model != fields[0] or run <= calls[-1].last_run:
            calls.append(_Call(fields[0]))
        call = calls[-1]
        call.rows.append(row)
        call.latencies_ms.append(ms)
        call.peak_bytes = max(call.peak_bytes, peak_bytes)
        call.last_run = run
    return calls


def _run_ms(text: str) -> float:
    if text.isdecimal() and len(text) > 4:
        raise RowError(f"time_s is {short(text)}; old versions of the tool write nanoseconds, measure with a newer one")
    return latency_ms(text, "s", "time_s")


def _add(reading: Reading, call: _Call) -> None:
    wrong = off_unit(call.latencies_ms)
    for index, ratio in wrong.items():
        kind = f"{len(call.rows)} runs of {short(call.model)}"
        reading.refuse(call.rows[index], unit_reason(call.latencies_ms[index], ratio, kind))
    kept = [ms for index, ms in enumerate(call.latencies_ms) if index not in wrong]
    reading.add(
        call.rows[0],
        subject=call.model,
        peak_memory_bytes=call.peak_bytes or None,
        **median_of_runs(kept),
    )
