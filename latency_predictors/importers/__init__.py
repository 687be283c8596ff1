"""Importers: measurements that other tools wrote, one importer a format, behind one function."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latency_predictors.importers.aihub_job import AiHubJobImporter
from latency_predictors.importers.aihub_perf import AiHubPerfImporter
from latency_predictors.importers.base import Importer, Reading, Source, load
from latency_predictors.importers.checks import duplicate_key, screen
from latency_predictors.importers.csv import CsvImporter
from latency_predictors.importers.onnxruntime_profile import OnnxRuntimeProfileImporter
from latency_predictors.importers.perf_test import PerfTestImporter
from latency_predictors.importers.records import (
    Facts,
    ImportedMeasurement,
    ImportResult,
    LayerCounts,
    OperatorLatency,
    Provenance,
    RowFlag,
)
from latency_predictors.importers.tflite import TfliteImporter
from search_spaces.errors import UserError

__all__ = [
    "IMPORTERS",
    "Facts",
    "ImportResult",
    "ImportedMeasurement",
    "Importer",
    "LayerCounts",
    "OperatorLatency",
    "Provenance",
    "RowFlag",
    "detect_format",
    "read_all",
    "read_measurements",
]

IMPORTERS: dict[str, Importer] = {
    importer.format: importer
    for importer in (
        OnnxRuntimeProfileImporter(),
        AiHubJobImporter(),
        AiHubPerfImporter(),
        TfliteImporter(),
        PerfTestImporter(),
        CsvImporter(),
    )
}
"""By name; the first that recognises a file reads it."""

#: Rows without a latency that a line lists.
_MOST_BLANK = 10


def read_measurements(path: Path | str, format: str | None = None, facts: Facts | None = None) -> ImportResult:
    """Imports one measurement file.

    Parameters
    ----------
    format: a key of `IMPORTERS`; by default it is told from the content.
    facts: what the file does not say, above all the device; rows that say otherwise are refused.

    Bad rows are refused one by one and listed in `flags`, with their row. Raises UserError, one line with
    the row or path, when the file cannot be read at all or no measurement is left of it.
    """
    source = load(Path(path))
    importer = _importer(format or detect_format(source))
    reading = Reading(source, importer.format, facts or Facts())
    importer.read(source, reading)
    screen(reading, importer.neighbours)
    if not reading.measurements:
        refused = [flag for flag in reading.flags if flag.refused]
        if not refused:
            raise source.error(1, "no measurement is in it; give the file that the tool wrote")
        more = f" (and {len(refused) - 1} more rows refused)" if len(refused) > 1 else ""
        # Rows that nobody has filled in yet are not what is wrong with a file where others are.
        first = next((flag for flag in refused if not flag.is_blank), refused[0])
        raise source.error(first.row, f"{first.reason}{more}; no measurement is left")
    return ImportResult(
        measurements=tuple(reading.measurements),
        flags=tuple(sorted(reading.flags, key=lambda flag: flag.row if isinstance(flag.row, int) else 0)),
        operators=tuple(reading.operators),
        source=source.name,
        format=importer.format,
        sha256=source.sha256,
    )


def read_all(
    paths: Sequence[Path | str], format: str | None = None, facts: Facts | None = None
) -> tuple[list[ImportedMeasurement], list[str]]:
    """Imports several files, as `--from FILE ...` gives them: their measurements, and lines to show to the user.

    The lines are a summary of each file and its flags. What several files claim to have measured is
    kept of each, and said: of two models with a component "unet" only the user knows.
    Raises UserError as read_measurements does, and for a file that is given twice.
    """
    measurements: list[ImportedMeasurement] = []
    lines: list[str] = []
    files: dict[str, Path | str] = {}
    first: dict[object, ImportedMeasurement] = {}
    for path in paths:
        result = read_measurements(path, format, facts)
        if result.sha256 in files:
            raise UserError(
                f"measurement file {str(path)!r}: is the same as {str(files[result.sha256])!r}; give it once"
            )
        files[result.sha256] = path
        lines.append(result.summary())
        lines += [f"{result.source}, {flag}" for flag in result.flags if not flag.is_blank]
        blank = [str(flag.row) for flag in result.flags if flag.is_blank]
        if blank:
            more = f" and {len(blank) - _MOST_BLANK} more" if len(blank) > _MOST_BLANK else ""
            lines.append(f"{result.source}, row {', '.join(blank[:_MOST_BLANK])}{more}: no latency is filled in")
        for m in result.measurements:
            earlier = first.setdefault(duplicate_key(m), m)
            if earlier.provenance.sha256 != result.sha256:
                also = f"{m.subject!r} is in {earlier.provenance.file} too"
                lines.append(f"{result.source}, {RowFlag(m.provenance.row, also, refused=False)}")
        measurements += result.measurements
    return measurements, lines


def detect_format(source: Source) -> str:
    """The format of a file by its content; UserError if it is none of `IMPORTERS`."""
    for name, importer in IMPORTERS.items():
        if importer.recognises(source):
            return name
    raise source.error(1, f"format not recognised; legal are {', '.join(IMPORTERS)}, see docs/measurement-files.md")


def _importer(format: str) -> Importer:
    if format not in IMPORTERS:
        raise UserError(f"format {format!r} is not known; legal are {', '.join(IMPORTERS)}")
    return IMPORTERS[format]
