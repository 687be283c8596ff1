"""Finished candidates: the truth of a sweep, from which study and tables are rebuilt."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.atomic import WriteError
from nas.search.key_index import KeyIndex
from nas.search.record import OUTCOMES, CandidateRecord, Outcome, key64
from nas.search.record_rows import RecordRows, Rows
from nas.search.segments import KEYS, read_segment, write_segment
from nas.search.tail import parse_line, read_lines, repair_end, write_lines
from search_spaces.errors import UserError

STORE_FOLDER = "store"
SEAL_RECORDS = 20_000
"""Records after which the open file is sealed: about 12 MB of JSON, read in half a second."""

_NUMBERED = re.compile(r"candidates-(\d{5,})\.(?:parquet|jsonl)")
_DONE = OUTCOMES.index("done")


class CandidateStore:
    """Append-only records in a folder; any number of readers and, on one node, of writers.

    **Files.** New records are lines of `candidates.jsonl`. When it holds `seal_records`, it is sealed: a writer writes
    the same records, in their order, as `candidates-00000.parquet`, then deletes it and goes on with
    `candidates-00001.jsonl`, and so on. A segment never changes, and a line file with a segment of its number is no
    longer read: a crash between the two steps leaves a file that the next writer deletes. A store of an earlier version
    is one that has not been sealed yet.

    **Writers.** Records are whole lines, appended with O_APPEND under an exclusive `flock` of the line file, followed
    by `fsync`: after a crash the file holds whole lines and at most one torn last one, which readers skip and the
    next writer repairs (a whole record that lacks only its newline is kept). At most one `done` record of a candidate
    is ever accepted, also from two writers at the same time. A segment that cannot be written costs nothing: the line
    file grows, and it is tried again later.

    **Readers** take no lock. Reading costs what was added since. In memory are 33 bytes a sealed record, and the
    records of the line file; everything else of sealed ones is read when it is asked for, by column.
    """

    def __init__(self, folder: Path | str, seal_records: int = SEAL_RECORDS) -> None:
        self.folder = Path(folder)
        self.seal_records = seal_records
        self._forget()

    def _forget(self) -> None:
        self._opened = False
        self._rows = RecordRows()
        self._number = 0  # of the line file
        self._offset = 0  # in it, behind the last line that was read
        self._seal_at = self.seal_records
        self._last, self._trials = KeyIndex(), KeyIndex()
        self._outcomes = bytearray()
        self._counts: Counter[Outcome] | None = Counter()

    @property
    def path(self) -> Path:
        """The file that the next record is written to, as far as this store has read."""
        return self._line_path(self._number)

    def __len__(self) -> int:
        """Number of records, also those of other processes."""
        self._refresh()
        return len(self._rows)

    def records(self) -> list[CandidateRecord]:
        """Every record in the order of their ends; of large stores take columns instead (:meth:`table`).

        Raises:
            UserError: a line that is not a record (other than a torn last one), or an unreadable file.
        """
        return self.at(np.arange(len(self)))

    def latest(self) -> list[CandidateRecord]:
        """The last record of each candidate, in the order of their ends."""
        return self.at(self.latest_rows())

    def latest_rows(self) -> Rows:
        """Row (place in the order of ends) of the last record of each candidate, in growing order."""
        self._refresh()
        return self._last.rows()

    def at(self, rows: Rows) -> list[CandidateRecord]:
        """The records of rows in growing order."""
        self._refresh()
        return self._rows.at(rows)

    def counts(self) -> dict[Outcome, int]:
        """Number of candidates per outcome."""
        self._refresh()
        if self._counts is None:
            codes = np.frombuffer(bytes(self._outcomes), np.uint8)[self._last.rows()]
            numbers = np.bincount(codes, minlength=len(OUTCOMES)).tolist()
            self._counts = Counter(dict(zip(OUTCOMES, numbers, strict=True)))
        return {outcome: self._counts[outcome] for outcome in OUTCOMES}

    def find_trial(self, trial: str) -> CandidateRecord | None:
        """The record of one evaluation, if it is stored."""
        self._refresh()
        row = self._trials.find(key64(trial))
        return None if row is None else self._rows.at(np.array([row]))[0]

    def objectives(self, error: str = "latent_error", since: int = 0) -> tuple[Rows, NDArray[np.float64]]:
        """Rows (N,) and (error, latency in ms, parameters) (N, 3) of the done records from row `since` on.

        A candidate is done once, so that these are all different candidates. Those without that metric are left out.
        """
        self._refresh()
        return self._rows.objectives(error, since)

    def table(self, rows: Rows, columns: Sequence[str] | None = None) -> Any:
        """Rows in growing order as a pyarrow Table; see :mod:`nas.search.segments` for the columns (None: all).

        Columns that none of the rows has are left out.
        """
        self._refresh()
        return self._rows.table(rows, columns)

    def append(self, record: CandidateRecord) -> bool:
        """Store a record durably before returning.

        Returns:
            Whether it was added: False when this evaluation is stored already, or its candidate is done.

        Raises:
            UserError: the file cannot be written (full disk, read-only folder); nothing is left half-written.
        """
        return self.extend([record]) == 1

    def extend(self, records: Sequence[CandidateRecord]) -> int:
        """Store many records with one wait for the disk; :meth:`append` says which are refused.

        Returns:
            How many were added.

        Raises:
            UserError: as :meth:`append`; on a full disk those that fitted are stored.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as handle:
                new = self._unknown(records)
                if new:
                    write_lines(handle, new)
                    self._refresh()
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free space or make it writable, then resume the run"
            ) from None
        return len(new)

    def _unknown(self, records: Sequence[CandidateRecord]) -> list[CandidateRecord]:
        new, trials, done = [], set(), set()
        for record in records:
            last = self._last.find(key64(record.candidate))
            is_done = record.candidate in done or (last is not None and self._outcomes[last] == _DONE)
            if is_done or record.trial in trials or self._trials.find(key64(record.trial)) is not None:
                continue
            new.append(record)
            trials.add(record.trial)
            if record.outcome == "done":
                done.add(record.candidate)
        return new

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The line file, opened for appending, locked, repaired, read, and not full."""
        self._refresh()
        while True:
            number = self._number
            handle = os.open(self._line_path(number), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                self._drop_sealed(number - 1)  # whose writer was killed
                # Whoever had the lock may have sealed this file; then it is deleted, or was by now.
                self._refresh()
                if self._number == number:
                    repair_end(handle)
                    self._refresh()
                    if not self._seal():
                        yield handle
                        return
                self._drop_sealed(number)
            finally:
                os.close(handle)

    def _drop_sealed(self, number: int) -> None:
        if self._segment_path(number).exists():
            self._line_path(number).unlink(missing_ok=True)

    def _seal(self) -> bool:
        """Write the line file's records as a segment, if there are enough; the caller holds the lock."""
        records = self._rows.tail
        if len(records) < self._seal_at:
            return False
        for left in self.folder.glob(".candidates-*.parquet.*.tmp"):  # by a killed writer: only one at a time seals
            with contextlib.suppress(OSError):
                left.unlink()
        try:
            write_segment(self._segment_path(self._number), records)
            _sync_folder(self.folder)
        except (WriteError, OSError):
            self._seal_at = len(records) + max(1, self.seal_records // 4)
            return False
        self._refresh()
        return True

    def _refresh(self) -> None:
        """Read what was added since, by whichever process."""
        if not self._opened:
            self._open()
        while True:
            while (path := self._segment_path(self._number)).exists():
                self._take_segment(path)
            try:
                found = read_lines(self.path, self._offset)
            except FileNotFoundError:
                if self._segment_path(self._number).exists():
                    continue  # sealed in between
                if self._offset == 0:
                    return  # not begun
                found = None
            if found is not None:
                break
            # Cut by an error of the disk, or deleted by hand: what was read of it is not there any more.
            self._forget()
            self._open()
        lines, offset = found
        first = len(self._rows) + 1
        records = [parse_line(line, self.path, number) for number, line in enumerate(lines, first)]
        self._offset = offset
        for record in records:
            self._add(record)

    def _open(self) -> None:
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise UserError(
                f"cannot read {self.folder}: {error.strerror}; make it readable, then resume the run"
            ) from None
        largest = max((int(found[1]) for found in map(_NUMBERED.fullmatch, names) if found), default=0)
        while self._number < largest:
            # Not by the listing, which a writer may have changed meanwhile: a file begins after those before it ended.
            if (path := self._segment_path(self._number)).exists():
                self._take_segment(path)
            else:
                self._number += 1
        self._opened = True

    def _take_segment(self, path: Path) -> None:
        """Take over the segment of the line file, of which this store has perhaps read a part, and go on behind it."""
        table = read_segment(path, (*KEYS, "outcome"))
        known, start = len(self._rows.tail), self._rows.num_sealed
        if known < table.num_rows:
            candidates, trials = (table[name].to_numpy()[known:] for name in KEYS)
            self._last.extend(candidates, start + known)
            self._trials.extend(trials, start + known)
            self._outcomes += _codes(table["outcome"])[known:].tobytes()
            self._counts = None
        self._rows.seal(path, table.num_rows)
        self._number += 1
        self._offset, self._seal_at = 0, self.seal_records

    def _add(self, record: CandidateRecord) -> None:
        key, row = key64(record.candidate), len(self._rows)
        if self._counts is not None:
            before = self._last.find(key)
            if before is not None:
                self._counts[OUTCOMES[self._outcomes[before]]] -= 1
            self._counts[record.outcome] += 1
        self._rows.tail.append(record)
        self._last.add(key, row)
        self._trials.add(key64(record.trial), row)
        self._outcomes.append(OUTCOMES.index(record.outcome))

    def _segment_path(self, number: int) -> Path:
        return self.folder / f"candidates-{number:05d}.parquet"

    def _line_path(self, number: int) -> Path:
        return self.folder / ("candidates.jsonl" if number == 0 else f"candidates-{number:05d}.jsonl")


def _codes(outcomes: Any) -> NDArray[np.uint8]:
    import pyarrow as pa
    import pyarrow.compute as pc

    return np.asarray(pc.index_in(outcomes, value_set=pa.array(OUTCOMES)).to_numpy(), dtype=np.uint8)


def _sync_folder(folder: Path) -> None:
    """Wait until the disk knows a renamed file by its name."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
