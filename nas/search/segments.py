"""Sealed parts of a store: Parquet files of whole records, written once and never changed.

Columns are the fields of `CandidateRecord`; options and metrics have a column each, `option.E1`, `metric.latent_error`.
`candidate_key` and `trial_key` are `key64` of both names, so that opening a store reads eight bytes a record and name.
Pages carry checksums.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nas.atomic import write_bytes
from nas.search.record import CandidateRecord, key64
from search_spaces.errors import UserError

FORMAT = b"nanosd_segment"
VERSION = b"1"
OPTION, METRIC = "option.", "metric."
KEYS = ("candidate_key", "trial_key")


def records_to_table(records: Sequence[CandidateRecord]) -> Any:
    """Records as a pyarrow Table, one row each."""
    import pyarrow as pa

    types = _types()
    columns = {name: pa.array([getattr(record, name) for record in records], types[name]) for name in types}
    stages = dict.fromkeys(stage for record in records for stage in record.options)
    metrics = dict.fromkeys(name for record in records for name in record.metrics)
    for stage in stages:
        columns[OPTION + stage] = pa.array([record.options.get(stage) for record in records], pa.string())
    for name in metrics:
        columns[METRIC + name] = pa.array([record.metrics.get(name) for record in records], pa.float64())
    # A map of metrics: which there are is each rung's own affair.
    rung = pa.struct(
        [("steps", pa.int64()), ("metrics", pa.map_(pa.string(), pa.float64())), ("seconds", pa.float64())]
    )
    columns["rungs"] = pa.array([[_rung(r) for r in record.rungs] for record in records], pa.list_(rung))
    columns["candidate_key"] = pa.array([key64(record.candidate) for record in records], pa.uint64())
    columns["trial_key"] = pa.array([key64(record.trial) for record in records], pa.uint64())
    return pa.table(columns)


def table_to_records(table: Any) -> list[CandidateRecord]:
    """The records of a table with all columns."""
    return [_record(row) for row in table.to_pylist()]


def write_segment(path: Path, records: Sequence[CandidateRecord]) -> None:
    """Write a segment durably and at one stroke.

    Raises:
        WriteError: the place is full or cannot be written.
    """
    import pyarrow.parquet as pq

    table = records_to_table(records)
    table = table.replace_schema_metadata({FORMAT: VERSION})
    texts = [field.name for field in table.schema if str(field.type) == "string"]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=[name for name in texts if name not in ("candidate", "trial", "finished_at")],
        write_page_checksum=True,
    )
    write_bytes(path, buffer.getvalue())


def read_segment(path: Path, columns: Iterable[str] | None = None) -> Any:
    """A segment as a pyarrow Table: all columns, or those of `columns` that it has.

    Raises:
        UserError: damaged, or of a format that is not known.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
        version = (file.schema_arrow.metadata or {}).get(FORMAT)
        names = file.schema_arrow.names
        table = file.read(columns=None if columns is None else [name for name in columns if name in names])
    except (OSError, ValueError, pa.ArrowException) as error:  # what a damaged file makes pyarrow raise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is damaged ({why}); restore it, or move it away: its candidates will be evaluated again"
        ) from None
    if version != VERSION:
        raise UserError(f"{path} is no segment of a store that this version reads; use the version that wrote it")
    return table


def _types() -> dict[str, Any]:
    import pyarrow as pa

    text, whole, real = pa.string(), pa.int64(), pa.float64()
    return {
        "candidate": text,
        "vector": pa.list_(pa.int32()),
        "outcome": text,
        "reason": text,
        "latency_ms": real,
        "num_params": whole,
        "num_macs": whole,
        "prior": real,
        "predicted_error": real,
        "predicted_low": real,
        "predicted_high": real,
        "trial": text,
        "reused_from": text,
        "seed": whole,
        "recipe_hash": text,
        "worker": text,
        "seconds": real,
        "finished_at": text,
    }


def _rung(rung: Any) -> dict[str, Any]:
    return {"steps": rung.steps, "metrics": list(rung.metrics.items()), "seconds": rung.seconds}


def _record(row: dict[str, Any]) -> CandidateRecord:
    fields = {name: value for name, value in row.items() if "." not in name and name not in KEYS}
    fields["rungs"] = [rung | {"metrics": dict(rung["metrics"])} for rung in row["rungs"]]
    for name, prefix in (("options", OPTION), ("metrics", METRIC)):
        fields[name] = {
            key.removeprefix(prefix): value
            for key, value in row.items()
            if key.startswith(prefix) and value is not None
        }
    return CandidateRecord.model_validate(fields)
