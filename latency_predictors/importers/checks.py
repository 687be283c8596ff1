"""What only shows across rows: duplicates, rows of another precision, latencies in another unit."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from latency_predictors.importers.base import Reading
from latency_predictors.importers.records import ImportedMeasurement, Row, at

_GAP = 30.0
_FACTOR = 100.0
_MAX_DEVIATIONS = 5.0
_MIN_ROWS = 3


def screen(reading: Reading, neighbours: Sequence[str]) -> None:
    """Refuses duplicates and rows in another unit; remarks rows of another precision and jobs listed twice.

    `neighbours` are the fields whose equality makes rows comparable in magnitude.
    """
    _refuse_duplicates(reading)
    _refuse_other_units(reading, neighbours)
    _remark_precisions(reading)
    _remark_shared_jobs(reading)


def off_unit(latencies_ms: Sequence[float]) -> dict[int, float]:
    """Latencies that look as if in another unit: index -> ratio to the median of the bulk of them.

    Sorted, the latencies fall apart where a neighbour is more than 30 times as long; the largest part is the bulk
    (of equal ones the fastest), so that half of a file may be wrong. Returned is what is a hundredfold
    off the bulk's median (a unit's factor of 1,000 less the spread of the networks of one space) and either
    outside of the bulk or more than 5 of its standard deviations away (log latency, by the median
    absolute deviation). A wide range without gaps, as of a model zoo, has no such rows; of fewer
    than 3 latencies nothing is said.
    """
    if len(latencies_ms) < _MIN_ROWS:
        return {}
    values = np.asarray(latencies_ms, dtype=float)
    logs = np.log10(values)
    order = np.argsort(logs, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(logs[order]) > math.log10(_GAP)) + 1)
    bulk = parts[int(np.argmax([len(part) for part in parts]))]
    offsets = logs - math.log10(np.median(values[bulk]))
    spread = 1.4826 * float(np.median(np.abs(offsets[bulk])))
    apart = np.abs(offsets) > _MAX_DEVIATIONS * spread
    apart[np.setdiff1d(order, bulk)] = True
    found = np.flatnonzero(apart & (np.abs(offsets) >= math.log10(_FACTOR)))
    return {int(i): float(10 ** offsets[i]) for i in found}


def unit_reason(latency_ms: float, ratio: float, kind: str) -> str:
    """Why a row that `off_unit` found is refused."""
    times = f"{ratio:.0f} times" if ratio > 1 else f"1/{1 / ratio:.0f} of"
    return f"{latency_ms:.6g} ms is {times} the median of {kind}: its unit is in doubt; mend it or leave it out"


def duplicate_key(m: ImportedMeasurement) -> tuple[Hashable, ...]:
    """What two rows have in common that claim to be the same measurement."""
    return (m.subject, m.device, m.runtime, m.precision, m.threads, m.toolchain, m.compute_unit)


def _refuse_duplicates(reading: Reading) -> None:
    first: dict[tuple[Hashable, ...], ImportedMeasurement] = {}
    for m in reading.measurements:
        earlier = first.setdefault(duplicate_key(m), m)
        if earlier is not m:
            same = (
                "" if m.latency_ms == earlier.latency_ms else f" ({m.latency_ms:g} ms against {earlier.latency_ms:g})"
            )
            reading.refuse(m.provenance.row, f"repeats {at(earlier.provenance.row)}: {m.subject!r}{same}; keep one")
    reading.measurements = list(first.values())


def _refuse_other_units(reading: Reading, neighbours: Sequence[str]) -> None:
    kinds: dict[tuple[Hashable, ...], list[ImportedMeasurement]] = defaultdict(list)
    for m in reading.measurements:
        # A stage option ("E1/RA") is far faster than a whole network, and no unit is to blame.
        kinds[("/" in m.subject, *(getattr(m, name) for name in neighbours))].append(m)
    refused: set[Row] = set()
    for kind in kinds.values():
        for index, ratio in off_unit([m.latency_ms for m in kind]).items():
            m = kind[index]
            refused.add(m.provenance.row)
            reading.refuse(m.provenance.row, unit_reason(m.latency_ms, ratio, f"{len(kind)} rows like it"))
    reading.measurements = [m for m in reading.measurements if m.provenance.row not in refused]


def _remark_precisions(reading: Reading) -> None:
    for rows in _by(reading.measurements, "device", "runtime"):
        counts = Counter(m.precision for m in rows)
        most, num = counts.most_common(1)[0]
        for m in rows:
            if m.precision != most:
                reading.remark(
                    m.provenance.row,
                    f"precision is {m.precision or 'not given'}, that of {num} of {len(rows)} rows of its device and "
                    f"runtime {most or 'not given'}; calibrate for one precision",
                )


def _remark_shared_jobs(reading: Reading) -> None:
    for rows in _by((m for m in reading.measurements if m.job_id is not None), "job_id"):
        for m in rows[1:]:
            reading.remark(
                m.provenance.row,
                f"job {m.job_id} of {m.device!r} is that of {rows[0].device!r}, {at(rows[0].provenance.row)}: one "
                "measurement under two names",
            )


def _by(measurements: Iterable[ImportedMeasurement], *names: str) -> list[list[ImportedMeasurement]]:
    groups: dict[tuple[Hashable, ...], list[ImportedMeasurement]] = defaultdict(list)
    for m in measurements:
        groups[tuple(getattr(m, name) for name in names)].append(m)
    return list(groups.values())
