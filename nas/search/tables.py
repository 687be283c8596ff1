"""A store as one table: for pandas, and as the files that a run leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.search.segments import METRIC, OPTION
from nas.search.store import STORE_FOLDER, CandidateStore
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

_BEFORE = ("latency_ms", "num_params", "num_macs", "prior")
_PREDICTED = ("predicted_error", "predicted_low", "predicted_high")
_AFTER = ("outcome", "reason", "seconds", "worker", "seed", "recipe_hash", "trial", "finished_at")


def candidate_table(store: CandidateStore) -> Any:
    """The last record of each candidate as a pyarrow Table, in the order of their ends.

    Columns: `id`, one per stage, costs, prior, metrics, one `<metric>@<steps>` per rung and metric, outcome, reason and
    provenance (`predicted_...` where a candidate was stopped, `reused_from` where a record was taken over), `order`. Of
    no records: the columns that all have.
    """
    import pyarrow as pa

    rows = store.latest_rows()
    found = store.table(rows)
    names = found.column_names
    columns = {"id": found["candidate"]}
    columns |= {name.removeprefix(OPTION): found[name] for name in names if name.startswith(OPTION)}
    columns |= {name: found[name] for name in _BEFORE}
    columns |= {name.removeprefix(METRIC): found[name] for name in names if name.startswith(METRIC)}
    columns |= _rungs(found["rungs"], len(rows))
    columns |= {name: found[name] for name in _AFTER}
    if found["predicted_error"].null_count < len(rows):
        columns |= {name: found[name] for name in _PREDICTED}
    if found["reused_from"].null_count < len(rows):
        columns["reused_from"] = found["reused_from"]
    return pa.table(columns | {"order": pa.array(range(len(rows)), pa.int64())})


def to_frame(store: CandidateStore) -> pd.DataFrame:
    """:func:`candidate_table` as a pandas frame; whole numbers are Int64, which has missing values."""
    return _frame(candidate_table(store))


def export_tables(run_dir: Path | str, error: str = "latent_error") -> tuple[Path, Path]:
    """Write `candidates.parquet` and `candidates.csv` of a run directory from its store, each at one stroke.

    The tables have the columns of :func:`candidate_table` and `on_front`: whether the candidate is done and no
    other done one is at least as good in (`error`, latency, parameters) and better in one.

    Raises:
        UserError: a damaged store, or a folder that cannot be written.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    from nas.pareto import front

    folder = Path(run_dir)
    table = candidate_table(CandidateStore(folder / STORE_FOLDER))
    on_front = np.zeros(len(table), dtype=bool)
    if error in table.column_names:
        names = (error, "latency_ms", "num_params")
        values = np.stack([table[name].to_numpy().astype(np.float64) for name in names], axis=1)
        usable = np.array(table["outcome"].to_numpy() == "done") & np.isfinite(values).all(axis=1)
        on_front[np.flatnonzero(usable)] = front(values[usable])
    table = table.append_column("on_front", pa.array(on_front))
    parquet, csv = folder / "candidates.parquet", folder / "candidates.csv"
    _write(parquet, lambda path: pq.write_table(table, path, compression="zstd"))
    _write(csv, lambda path: pyarrow.csv.write_csv(table, path))
    return parquet, csv


def _write(target: Path, write: Callable[[Path], None]) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, target)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {target}: {problem.strerror or problem}; free space or make it writable, then resume the run"
        ) from None


def _frame(table: Any) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    frame: pd.DataFrame = table.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    return frame


def _rungs(column: Any, length: int) -> dict[str, Any]:
    """A column of each metric at each number of steps."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.combine_chunks()
    flat = column.flatten()  # the rungs of all records, one after the other
    if len(flat) == 0:
        return {}
    owner = pc.list_parent_indices(column).to_numpy()
    steps, maps = flat.field("steps").to_numpy(), flat.field("metrics")
    per_rung = np.diff(maps.offsets.to_numpy())
    rung = np.repeat(np.arange(len(flat)), per_rung)
    begin, end = int(maps.offsets[0].as_py()), int(maps.offsets[-1].as_py())
    names = np.array(maps.keys.slice(begin, end - begin).to_pylist(), dtype=object)
    values = maps.items.slice(begin, end - begin).to_numpy()
    columns = {}
    for step in np.unique(steps):
        for name in dict.fromkeys(names):
            chosen = (steps[rung] == step) & (names == name)
            if chosen.any():
                filled = np.full(length, np.nan)
                filled[owner[rung[chosen]]] = values[chosen]
                columns[f"{name}@{step}"] = pa.array(filled, from_pandas=True)
    return columns
