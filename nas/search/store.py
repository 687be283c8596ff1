"""Finished candidates, one JSON line each: the truth of a sweep, from which study and tables are rebuilt."""

from __future__ import annotations

import fcntl
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from search_spaces.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

STORE_FOLDER = "store"
FILE_NAME = "candidates.jsonl"

Outcome = Literal["done", "failed", "infeasible"]


class CandidateRecord(BaseModel):
    """What is known of one evaluated (or refused) candidate. Every number is finite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    candidate: str = Field(min_length=1)
    """Canonical candidate id."""
    options: dict[str, str]
    """Stage to option name."""
    vector: tuple[int, ...]
    """Option index per stage."""
    outcome: Outcome
    reason: str | None = None
    """Why the outcome is not `done`, in one line."""
    latency_ms: FiniteFloat
    """Predicted, known before the evaluation."""
    num_params: int
    num_macs: int | None = None
    prior: FiniteFloat | None = None
    """Error that was predicted before the evaluation."""
    metrics: dict[str, FiniteFloat] = Field(default_factory=dict)
    """What the evaluator measured (latent_error, noise_error, tafid ...)."""
    trial: str
    """Unique name of the evaluation: a record is stored once however often it is appended."""
    seed: int | None = None
    recipe_hash: str = ""
    worker: str = ""
    """host:process id."""
    seconds: FiniteFloat = 0.0
    finished_at: str = ""
    """UTC, ISO 8601."""


class CandidateStore:
    """Append-only `candidates.jsonl` in a folder; any number of readers and, on one node, of writers.

    A record is one `write` of one line to a file opened with O_APPEND, under an exclusive `flock`, followed by
    `fsync`: after a crash the file holds whole lines, and at most one torn last line, which readers skip and the
    next writer repairs (a whole record that lacks only its newline is kept). At most one `done` record of a
    candidate is ever accepted, also from two writers at the same time. Reading costs only what was added since.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / FILE_NAME
        self._records: list[CandidateRecord] = []
        self._trials: set[str] = set()
        self._last: dict[str, CandidateRecord] = {}
        self._counts: Counter[Outcome] = Counter()
        self._offset = 0

    def records(self) -> list[CandidateRecord]:
        """Every record in the order of their ends, also those of other processes.

        Raises:
            UserError: a line that is not a record (other than a torn last one), or an unreadable file.
        """
        self._read_new()
        return list(self._records)

    def latest(self) -> list[CandidateRecord]:
        """The last record of each candidate, in the order of their ends."""
        return [record for record in self.records() if self._last[record.candidate] is record]

    def counts(self) -> dict[Outcome, int]:
        """Number of candidates per outcome."""
        self._read_new()
        return {
            "done": self._counts["done"],
            "failed": self._counts["failed"],
            "infeasible": self._counts["infeasible"],
        }

    def find_trial(self, trial: str) -> CandidateRecord | None:
        """The record of one evaluation, if it is stored."""
        self._read_new()
        if trial not in self._trials:
            return None
        return next(record for record in reversed(self._records) if record.trial == trial)

    def append(self, record: CandidateRecord) -> bool:
        """Store a record durably before returning.

        Returns:
            Whether it was added: False when this evaluation is stored already, or its candidate is done.

        Raises:
            UserError: the file cannot be written (full disk, read-only folder); nothing is left half-written.
        """
        line = (record.model_dump_json(exclude_defaults=False) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                _repair_tail(handle)
                self._read_new()
                last = self._last.get(record.candidate)
                if record.trial in self._trials or (last is not None and last.outcome == "done"):
                    return False
                size = os.fstat(handle).st_size
                try:
                    written = os.write(handle, line)
                    if written != len(line):
                        raise OSError(28, "No space left on device")
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, size)
                    raise
                self._read_new()
                return True
            finally:
                os.close(handle)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free space or make it writable, then resume the run"
            ) from None

    def to_frame(self) -> pd.DataFrame:
        """One row per candidate (its last record): id, a column per stage, costs, metrics, outcome, `order`."""
        return records_to_frame(self.latest())

    def _read_new(self) -> None:
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(
                f"cannot read {self.path}: {error.strerror}; make it readable, then resume the run"
            ) from None
        end = data.rfind(b"\n") + 1  # what follows is being written, or torn
        for line in data[:end].splitlines():
            if line.strip():
                self._add(_parse(line, self.path, len(self._records) + 1))
        self._offset += end

    def _add(self, record: CandidateRecord) -> None:
        self._records.append(record)
        self._trials.add(record.trial)
        before = self._last.get(record.candidate)
        if before is not None:
            self._counts[before.outcome] -= 1
        self._last[record.candidate] = record
        self._counts[record.outcome] += 1


def _parse(line: bytes, path: Path, number: int) -> CandidateRecord:
    try:
        record = CandidateRecord.model_validate_json(line)
        if record.outcome == "done" and not record.metrics:
            raise UserError(
                f"{path}: record {number} is damaged: it is done but has no metrics; "
                "delete that line, its candidate will be evaluated again"
            )
        return record
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise UserError(
            f"{path}: record {number} is damaged: {where}: {first['msg']}; "
            "delete that line, its candidate will be evaluated again"
        ) from None


def _repair_tail(handle: int) -> None:
    """End the file with a whole line; the caller holds the lock, so that nobody is writing the last one."""
    size = os.fstat(handle).st_size
    if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
        return
    start, tail = size, b""
    while start > 0 and b"\n" not in tail:
        step = min(start, 65_536)
        start -= step
        tail = os.pread(handle, step, start) + tail
    torn = tail[tail.rfind(b"\n") + 1 :]
    try:
        CandidateRecord.model_validate_json(torn)
    except ValidationError:
        os.ftruncate(handle, size - len(torn))
    else:
        os.write(handle, b"\n")


def records_to_frame(records: Iterable[CandidateRecord]) -> pd.DataFrame:
    """Records as a table: `id`, one column per stage, costs, metrics, outcome, reason and provenance, `order`."""
    import pandas as pd

    rows = []
    for order, record in enumerate(records):
        rows.append(
            {
                "id": record.candidate,
                **record.options,
                "latency_ms": record.latency_ms,
                "num_params": record.num_params,
                "num_macs": record.num_macs,
                "prior": record.prior,
                **record.metrics,
                "outcome": record.outcome,
                "reason": record.reason,
                "seconds": record.seconds,
                "worker": record.worker,
                "seed": record.seed,
                "recipe_hash": record.recipe_hash,
                "trial": record.trial,
                "finished_at": record.finished_at,
                "order": order,
            }
        )
    columns = ["id", "latency_ms", "num_params", "num_macs", "prior", "outcome", "reason", "seconds", "order"]
    frame = pd.DataFrame(rows, columns=None if rows else columns)
    whole = [name for name in ("num_params", "num_macs", "seed", "order") if name in frame]
    return frame.astype(dict.fromkeys(whole, "Int64"))


def export_tables(run_dir: Path | str, error: str = "latent_error") -> tuple[Path, Path]:
    """Write `candidates.parquet` and `candidates.csv` of a run directory from its store, each at one stroke.

    The tables have the columns of :func:`records_to_frame` and `on_front`: whether the candidate is done and no
    other done one is at least as good in (`error`, latency, parameters) and better in one.

    Raises:
        UserError: a damaged store, or a folder that cannot be written.
    """
    import numpy as np

    from nas.pareto import front

    folder = Path(run_dir)
    frame = CandidateStore(folder / STORE_FOLDER).to_frame()
    on_front = np.zeros(len(frame), dtype=bool)
    if error in frame:
        values = frame[[error, "latency_ms", "num_params"]].to_numpy(dtype=float)
        usable = (frame["outcome"] == "done").to_numpy() & np.isfinite(values).all(axis=1)
        on_front[np.flatnonzero(usable)] = front(values[usable])
    frame["on_front"] = on_front
    targets = folder / "candidates.parquet", folder / "candidates.csv"
    for target in targets:
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            if target.suffix == ".parquet":
                frame.to_parquet(temporary, index=False)
            else:
                frame.to_csv(temporary, index=False)
            os.replace(temporary, target)
        except OSError as problem:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"cannot write {target}: {problem.strerror}; free space or make it writable, then resume the run"
            ) from None
    return targets
