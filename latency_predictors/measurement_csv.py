"""Measurements as the CSV of docs/measurement-files.md, which the importers read back."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from latency_predictors.measurement import Measurement

COLUMNS = (
    "subject",
    "latency_ms",
    "device",
    "runtime",
    "precision",
    "threads",
    "toolchain",
    "statistic",
    "num_samples",
    "ci95_low_ms",
    "ci95_high_ms",
)


def as_csv(measurements: Mapping[str, Measurement], versions: Mapping[str, str]) -> str:
    """The rows, under a header; `versions` become the column `toolchain`."""
    toolchain = ", ".join(f"{name} {version}" for name, version in versions.items())
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for m in measurements.values():
        row = (m.subject, repr(m.median_ms), m.device, m.runtime, m.precision, m.threads, toolchain, "median")
        writer.writerow((*row, m.num_samples, *map(repr, m.ci95_ms)))
    return text.getvalue()
