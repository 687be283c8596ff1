"""Text output of TFLite's benchmark_model: log lines, and with operator profiling a table.

The summary is in microseconds, the operators' table in milliseconds, memory in MiB (the tool calls it MB).
Logs of several calls may stand one after the other, and lines may carry a prefix (INFO:, logcat's).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from latency_predictors.importers.base import Reading, RowError, Source, latency_ms, number, short, whole
from latency_predictors.importers.records import ComputeUnit, OperatorLatency, Statistic

_TIMINGS = re.compile(r"Inference timings in us: Init: .*Inference \(avg\): *(\S+)")
_COUNTS = re.compile(r"\bcount=\d+ .*")
_GRAPH = re.compile(r"\bGraph: \[(.+?)\]")
_THREADS = re.compile(r"\b(?:Num threads|#threads used for CPU inference): \[(\S+?)\]")
_MEMORY = re.compile(r"footprint .*\(MB\): .*\boverall=(\S+)")
_DELEGATE = re.compile(
    r"\b(\w+) delegate(?: is explicitly applied)?, (?:and )?the model graph will (be \w+|not be) executed"
)
_MAX_LINE = 4000
_REGULAR, _RUN_ORDER = "Profiling Info for Regular Benchmark Runs", "= Run Order ="
_UNITS: dict[str, ComputeUnit] = {"GPU": "GPU", "XNNPACK": "CPU", "HEXAGON": "NPU"}  # NNAPI decides by itself


@dataclass
class _Call:
    """What the log of one call of the tool says, by the lines that say it."""

    row: int
    graph: str | None = None
    threads: str | None = None
    delegate: str | None = None
    extent: str = "be completely"
    counts: dict[str, str] = field(default_factory=dict)
    average: str | None = None
    memory: str | None = None
    failed: int | None = None
    table: list[tuple[int, str]] = field(default_factory=list)


class TfliteImporter:
    """Importer (see base) of benchmark_model's output: the median where the version prints it, else the mean."""

    format = "tflite-benchmark"
    neighbours = ("device", "runtime", "precision")

    def recognises(self, source: Source) -> bool:
        """The tool's summary, or its report that the benchmark failed."""
        return "Inference timings in us:" in source.text or "Benchmarking failed." in source.text

    def read(self, source: Source, reading: Reading) -> None:
        """One measurement for each call of the tool; the warm-up is not in it."""
        for call in _calls(source, reading):
            if call.average is not None:
                _add(reading, call)
            elif call.failed is not None:
                reading.refuse(call.failed, "benchmarking failed; no latency was measured")


def _calls(source: Source, reading: Reading) -> list[_Call]:
    calls = [_Call(1)]
    regular = in_table = False
    for row, line in enumerate(source.text.split("\n"), start=1):
        if len(line) > _MAX_LINE:  # searching one for patterns may take as long as its length squared
            reading.refuse(row, f"{len(line)} characters are no line of a log")
            continue
        timings, graph = _TIMINGS.search(line), _GRAPH.search(line)
        over = calls[-1].average is not None or calls[-1].failed is not None
        if "STARTING!" in line or (over and (timings or graph)):
            calls.append(_Call(row))
            regular = in_table = False
        call = calls[-1]
        in_table = in_table and (not call.table or "\t" in line)  # its head, then lines with tabs
        if _REGULAR in line:
            regular = True
        elif regular and _RUN_ORDER in line:
            in_table, regular = True, False
        elif in_table:
            call.table.append((row, line))
        elif timings:
            call.row, call.average = row, timings[1]
        elif call.average is None and (counts := _COUNTS.search(line)):
            call.counts = dict(re.findall(r"(\w+)=(\S+)", counts[0]))  # the last before the summary
        elif graph:
            call.graph = graph[1]
        elif threads := _THREADS.search(line):
            call.threads = threads[1]
        elif memory := _MEMORY.search(line):
            call.memory = memory[1]
        elif delegate := _DELEGATE.search(line):
            if call.delegate is None or delegate[2] != "not be":  # of two, the one that took the graph
                call.delegate, call.extent = delegate[1], delegate[2]
        elif "Benchmarking failed." in line:
            call.failed = row
    return calls


def _add(reading: Reading, call: _Call) -> None:
    delegate = call.delegate if call.extent != "not be" else None
    unit: ComputeUnit | None = _UNITS.get(delegate.upper()) if delegate else "CPU"
    try:
        mean_ms = latency_ms(call.average, "us", "Inference (avg)")
        ms, statistic, num_samples = _statistics(call, mean_ms)
        memory = round(number(call.memory, "overall") * 2**20) if call.memory is not None else None
        # -1 is the tool's "not set": it then uses as many as it likes.
        threads = whole(call.threads, "threads", 1) if call.threads not in (None, "-1") else None
    except RowError as error:
        reading.refuse(call.row, str(error))
        return
    kept = reading.add(
        call.row,
        subject=re.split(r"[/\\]", call.graph)[-1].removesuffix(".tflite") if call.graph else None,
        latency_ms=ms,
        statistic=statistic,
        num_samples=num_samples,
        runtime=f"tflite-{delegate.lower()}" if delegate else "tflite-cpu",
        threads=threads,
        compute_unit=unit,
        peak_memory_bytes=memory,
    )
    if kept and call.extent != "be completely":
        share = "nothing" if delegate is None else "only a part"
        reading.remark(call.row, f"{share} of the graph ran on the {call.delegate} delegate, the rest on the CPU")
    _read_table(reading, call)


def _statistics(call: _Call, mean_ms: float) -> tuple[float, Statistic, int | None]:
    """Median where there is one, else the mean; nothing from a line of statistics that is not of these runs."""
    average = call.counts.get("avg", call.counts.get("curr"))
    try:
        same = average is not None and abs(latency_ms(average, "us", "avg") / mean_ms - 1) < 0.01
        if not same:
            return mean_ms, "mean", None
        num_samples = whole(call.counts["count"], "count", 1)
        if "median" in call.counts:
            return latency_ms(call.counts["median"], "us", "median"), "median", num_samples
        return mean_ms, "mean", num_samples
    except RowError:
        return mean_ms, "mean", None


def _read_table(reading: Reading, call: _Call) -> None:
    """The operators of the regular runs in the order they ran; a table without its tabs is only remarked."""
    if not call.table:
        return
    row, head = call.table[0]
    columns = [name.strip(" []").lower() for name in head.split("\t")]
    if not {"node type", "avg ms", "name"} <= set(columns):
        reading.remark(row, "the table of operators has lost its tabs or its header; it is not read")
        return
    for row, line in call.table[1:]:
        cells = dict(zip(columns, (cell.strip() for cell in line.split("\t")), strict=False))
        try:
            if len(cells) != len(columns):
                raise RowError(f"{short(line)} has {len(cells)} columns of {len(columns)}")
            ms = number(cells["avg ms"], "avg ms")
            if ms < 0:
                raise RowError(f"avg ms is {ms:g}; a latency is not negative")
            reading.operators.append(OperatorLatency(cells["name"], cells["node type"], None, ms, None, row))
        except RowError as error:
            reading.refuse(row, str(error))
