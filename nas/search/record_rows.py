"""Sealed segments and the records behind them as one sequence of rows, read by column where they are asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.search.record import CandidateRecord
from nas.search.segments import METRIC, read_segment, records_to_table, table_to_records

Rows = NDArray[np.int64]


class RecordRows:
    """Rows 0 to `num_sealed` - 1 lie in segments on the disk, the others are `tail`."""

    def __init__(self) -> None:
        self.tail: list[CandidateRecord] = []
        self.num_sealed = 0
        self._segments: list[tuple[Path, int, int]] = []  # file, first row, row behind the last

    def __len__(self) -> int:
        return self.num_sealed + len(self.tail)

    def seal(self, path: Path, num_rows: int) -> None:
        """The `num_rows` rows from `num_sealed` on are in this segment now; the tail, which is a part of them, ends."""
        assert num_rows >= len(self.tail), f"{path} has lost rows"
        self._segments.append((path, self.num_sealed, self.num_sealed + num_rows))
        self.num_sealed += num_rows
        self.tail = []

    def at(self, rows: Rows) -> list[CandidateRecord]:
        """The records of rows in growing order."""
        found: list[CandidateRecord] = []
        for path, inside in self._split(rows):
            if len(inside):
                found += [self.tail[i] for i in inside] if path is None else _taken(path, inside)
        return found

    def table(self, rows: Rows, columns: Sequence[str] | None = None) -> Any:
        """Rows in growing order as a pyarrow Table; `columns` that no row has are left out (None: all)."""
        import pyarrow as pa

        parts = []
        for path, inside in self._split(rows):
            if len(inside):
                parts.append(self._part(path, columns).take(pa.array(inside)))
        return pa.concat_tables(parts, promote_options="default") if parts else records_to_table([])

    def objectives(self, error: str, since: int) -> tuple[Rows, NDArray[np.float64]]:
        """Rows (N,) from `since` on that are done, and their (`error`, latency in ms, parameters) (N, 3)."""
        names = ("outcome", METRIC + error, "latency_ms", "num_params")
        rows, values = [np.empty(0, np.int64)], [np.empty((0, 3))]
        for path, start, end in self._segments:
            if end <= since:
                continue
            table = read_segment(path, names)
            if names[1] not in table.column_names:
                continue
            matrix = np.stack([table[name].to_numpy().astype(np.float64) for name in names[1:]], axis=1)
            good = _equal(table["outcome"], "done") & np.isfinite(matrix[:, 0])
            good[: max(since - start, 0)] = False
            rows.append(start + np.flatnonzero(good))
            values.append(matrix[good])
        begin = max(since - self.num_sealed, 0)
        found = [
            (row, record.metrics[error], record.latency_ms, record.num_params)
            for row, record in enumerate(self.tail[begin:], self.num_sealed + begin)
            if record.outcome == "done" and error in record.metrics
        ]
        rows.append(np.array([row for row, *_ in found], np.int64))
        values.append(np.array([numbers for _, *numbers in found], np.float64).reshape(-1, 3))
        return np.concatenate(rows), np.concatenate(values)

    def _split(self, rows: Rows) -> Iterator[tuple[Path | None, Rows]]:
        """Segment (None: the tail) and the places inside it, of rows in growing order."""
        first = bisect_right([end for _, _, end in self._segments], int(rows[0])) if len(rows) else 0
        parts = [*self._segments[first:], (None, self.num_sealed, len(self))]
        for path, start, end in parts:
            low, high = np.searchsorted(rows, (start, end))
            yield path, rows[low:high] - start

    def _part(self, path: Path | None, columns: Sequence[str] | None) -> Any:
        if path is not None:
            return read_segment(path, columns)
        table = records_to_table(self.tail)
        return table if columns is None else table.select([name for name in columns if name in table.column_names])


def _taken(path: Path, rows: Rows) -> list[CandidateRecord]:
    import pyarrow as pa

    return table_to_records(read_segment(path).take(pa.array(rows)))


def _equal(column: Any, value: str) -> NDArray[np.bool_]:
    import pyarrow.compute as pc

    return np.array(pc.equal(column, value).to_numpy(), dtype=bool)
