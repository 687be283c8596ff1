"""The evaluated candidates of a run: all of them as columns, those that are drawn as objects."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.run_data.columns import MAX_FAILED, Columns, Floats
from nas.run_data.types import DONE, STAGES, Candidate, words_of
from nas.run_data.values import needed, number, text

if TYPE_CHECKING:
    import pandas as pd


def read_candidates(path: Path, wanted: Collection[str]) -> tuple[tuple[Candidate, ...], Columns] | None:
    """The candidates of `candidates.parquet`, or of the CSV beside it when that is missing; None: it has no rows.

    Args:
        wanted: ids that are among the objects, however many candidates there are.

    Raises:
        OSError, ValueError, TypeError, KeyError: missing, or not such a file.
    """
    import pandas

    csv = path.with_suffix(".csv")
    frame = pandas.read_csv(csv) if csv.is_file() and not path.is_file() else pandas.read_parquet(path)
    if frame.empty:
        return None
    order = _floats(frame, "order")
    order = np.where(np.isfinite(order), order, np.arange(len(frame)))
    place = np.argsort(order, kind="stable")
    frame, orders = frame.iloc[place], order[place].astype(np.int64)
    values = np.stack([_floats(frame, name) for name in ("latent_error", "latency_ms", "num_params")], axis=1)
    for name, column in (("latency_ms", values[:, 1]), ("num_params", values[:, 2])):
        needed(column[np.argmin(np.isfinite(column))], name)
    done = (frame["outcome"].to_numpy(dtype=object) == DONE) & np.isfinite(values[:, 0])
    rows, failed = np.flatnonzero(done), np.flatnonzero(~done)
    ids = frame["id"].to_numpy(dtype=object)
    columns = Columns(ids[rows], values[rows], _floats(frame, "prior")[rows], orders[rows], len(failed))
    shown = np.union1d(rows[columns.drawn(wanted)], failed[:MAX_FAILED])
    records = frame.iloc[shown].to_dict("records")
    return tuple(_candidate(row, int(number)) for row, number in zip(records, orders[shown], strict=True)), columns


def _floats(frame: pd.DataFrame, name: str) -> Floats:
    """A column as float64 (N,); NaN where there is no value. Optional columns may be absent."""
    if name not in frame and name not in ("latency_ms", "num_params"):
        return np.full(len(frame), np.nan)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _candidate(row: Mapping[Any, Any], order: int) -> Candidate:
    candidate_id = str(row["id"])
    columns = {stage: str(row[stage]) for stage in STAGES if isinstance(row.get(stage), str)}
    return Candidate(
        candidate_id=candidate_id,
        words=columns or words_of(candidate_id),
        num_params=round(needed(row["num_params"], "num_params")),
        num_macs=round(needed(row["num_macs"], "num_macs")),
        latency_ms=needed(row["latency_ms"], "latency_ms"),
        latent_error=number(row.get("latent_error")),
        noise_error=number(row.get("noise_error")),
        tafid=number(row.get("tafid")),
        prior=number(row.get("prior")),
        outcome=str(row["outcome"]),
        reason=text(row.get("reason")),
        seconds=number(row.get("seconds")),
        order=order,
    )
