"""Imported rows to what they measured: the base, a stage option or a whole U-Net of a search space, on one device."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from latency_predictors.importers.base import short
from latency_predictors.importers.records import ImportedMeasurement, at
from latency_predictors.subject_names import BASE
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.space import listed

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

#: What decides a latency besides the graph, with the option of `nanosd calibrate` that chooses one value of it.
DEVICE_FIELDS = ("device", "runtime", "precision", "threads", "toolchain")
# onnxruntime appends the time to the prefix of a profile: E1_RA_2026-01-31_12-00-00.json, some builds with fractions.
_PROFILE_TIME = re.compile(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(\.\d+)?$", re.ASCII)
_MOST_LISTED = 5
_ONE_GRAPH = ("onnxruntime-profile", "onnxruntime-perf-test", "tflite-benchmark", "aihub-job")


@dataclass(frozen=True)
class SortedRows:
    """Rows of one device by subject.

    parts: "base" and "STAGE/OPTION" -> row.
    networks: candidate id -> row.
    unknown: one line for every row whose subject is nothing of the space.
    """

    parts: dict[str, ImportedMeasurement]
    networks: dict[str, ImportedMeasurement]
    unknown: tuple[str, ...]


def sort_rows(rows: Sequence[ImportedMeasurement], space: SearchSpace, *, skip_unknown: bool = False) -> SortedRows:
    """Sorts rows by what their `subject` is in the space.

    A subject is "base", a stage option ("E1/RA", or "E1_RA" as the file of its graph is called), a candidate's id or
    the name that the space gives a candidate; an ending ".onnx" and the time that onnxruntime puts into the name of a
    profile do not count.

    Raises UserError, one line with the rows, for unknown subjects (unless `skip_unknown`), for two rows of one
    subject, and when nothing is left.
    """
    parts: dict[str, ImportedMeasurement] = {}
    networks: dict[str, ImportedMeasurement] = {}
    unknown = []
    for row in rows:
        try:
            name, is_network = _subject_or_file(row, space)
        except UserError as error:
            unknown.append(f"{_where(row)}: {error}")
            continue
        found = networks if is_network else parts
        earlier = found.setdefault(name, row)
        if earlier is not row:
            raise UserError(
                f"{_where(row)}: {name} is measured in {_where(earlier)} already ({row.latency_ms:g} ms against "
                f"{earlier.latency_ms:g}); keep one, or write them as runs of one (a column `run`)"
            )
    if unknown and not skip_unknown:
        more = f"; and {len(unknown) - _MOST_LISTED} more" if len(unknown) > _MOST_LISTED else ""
        raise UserError(
            f"{'; '.join(unknown[:_MOST_LISTED])}{more}; legal subjects are {legal_subjects(space)}; mend the rows, or "
            "leave them out with --skip-unknown"
        )
    if not parts and not networks:
        raise UserError(f"no row has a subject of search space {space.name!r}; legal are {legal_subjects(space)}")
    return SortedRows(parts, networks, tuple(unknown))


def subject_of(text: str, space: SearchSpace) -> tuple[str, bool]:
    """The canonical name of a subject, and whether it is a whole U-Net.

    Raises UserError, one line without a row, for what the space does not have.
    """
    given = _PROFILE_TIME.sub("", text.strip())
    given = given.removesuffix(".onnx")
    if given == BASE:
        return BASE, False
    if given in space.candidates:
        return space.named(given).id, True
    for stage in space.stages:
        for separator in "/_":
            if given.startswith(stage + separator):
                return _option(stage, given[len(stage) + 1 :], space), False
    if "-" in given:
        candidate = Candidate.from_id(given, space.stages)
        space.encode(candidate)
        return candidate.id, True
    raise UserError(f"subject {short(text)} is nothing of search space {space.name!r}")


def _subject_or_file(row: ImportedMeasurement, space: SearchSpace) -> tuple[str, bool]:
    """The row's subject; of a tool's output about one graph, failing that, what the file is named after."""
    try:
        return subject_of(row.subject, space)
    except UserError:
        if row.provenance.format not in _ONE_GRAPH:
            raise
        try:
            return subject_of(Path(row.provenance.file).stem, space)
        except UserError:
            pass
        raise


def legal_subjects(space: SearchSpace) -> str:
    """The forms of a subject, with examples of this space."""
    stage = next(iter(space.stages))
    option = next(o for o in space.options[stage])
    example = "-".join(options[-1] for options in space.options.values())
    named = f", or a named candidate ({listed(tuple(space.candidates), 4)})" if space.candidates else ""
    return f"base, a stage option such as {stage}/{option}, a candidate's id such as {example}{named}"


def one_device(rows: Sequence[ImportedMeasurement]) -> dict[str, str | int | None]:
    """The device, runtime, precision, threads and toolchain that all rows share; None: no row says.

    Raises UserError, listing what there is and the option that chooses, when rows differ in one of them.
    """
    common: dict[str, str | int | None] = {}
    for field in DEVICE_FIELDS:
        counts = Counter(getattr(row, field) for row in rows)
        if len(counts) > 1:
            there = ", ".join(
                f"{'not given' if value is None else value} ({count} rows)" for value, count in counts.most_common()
            )
            raise UserError(
                f"measurements of several: {field} is {there}; choose one with --{field}"
                + (" (it also fills in the rows that do not say)" if None in counts else "")
            )
        common[field] = next(iter(counts), None)
    return common


def strays(rows: Sequence[ImportedMeasurement]) -> list[str]:
    """Lines on rows that ran on another compute unit than most: their latency is not this device's way of running."""
    counts = Counter(row.compute_unit for row in rows if row.compute_unit is not None)
    if len(counts) < 2:
        return []
    most = counts.most_common(1)[0][0]
    return [
        f"{_where(row)}: {row.subject} ran on {row.compute_unit}, {counts[most]} others on {most} (kept)"
        for row in rows
        if row.compute_unit not in (None, most)
    ]


def _option(stage: str, option: str, space: SearchSpace) -> str:
    if option == NONE:
        raise UserError(f"subject '{stage}/{NONE}' runs nothing, so it has no latency")
    if option not in space.options[stage]:
        raise UserError(
            f"option {short(option)} of stage {stage} is not in search space {space.name!r} (it has "
            f"{listed(space.options[stage])})"
        )
    return f"{stage}/{option}"


def _where(row: ImportedMeasurement) -> str:
    return f"{row.provenance.file}, {at(row.provenance.row)}"
