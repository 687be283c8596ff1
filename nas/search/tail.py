"""The open end of a store: one JSON line a record, appended under a lock, repaired after a crash."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from nas.search.record import CandidateRecord
from search_spaces.errors import UserError

# Lines are written so many bytes at once: below what one `write` takes, and little is written again by whoever reads.
CHUNK_BYTES = 2**20


def parse_line(line: bytes, path: Path, number: int) -> CandidateRecord:
    """A record from its line.

    Raises:
        UserError: it is none; `path` and `number` (of the record in the store) say which.
    """
    try:
        record = CandidateRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "line"
        raise UserError(
            f"{path}: record {number} is damaged: {where}: {first['msg']}; "
            "delete that line, its candidate will be evaluated again"
        ) from None
    if record.outcome == "done" and not record.metrics:
        raise UserError(
            f"{path}: record {number} is damaged: it is done but has no metrics; "
            "delete that line, its candidate will be evaluated again"
        )
    return record


def read_lines(path: Path, offset: int) -> tuple[list[bytes], int] | None:
    """The whole lines behind `offset` and where they end; None where the file is shorter than `offset`.

    Raises:
        FileNotFoundError: no such file.
        UserError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size < offset:
                return None
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; make it readable, then resume the run") from None
    end = data.rfind(b"\n") + 1  # what follows is being written, or torn
    return [line for line in data[:end].splitlines() if line.strip()], offset + end


def repair_end(handle: int) -> None:
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


def write_lines(handle: int, records: Sequence[CandidateRecord]) -> None:
    """Append records to the file, which ends with a whole line, and wait until the disk has them.

    Raises:
        OSError: a full disk. The whole lines before it stay, because readers may have seen them; no part of one does.
    """
    for chunk in _chunks(records):
        size = os.fstat(handle).st_size
        written = 0
        try:
            written = os.write(handle, chunk)
            if written != len(chunk):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(handle, size + chunk[:written].rfind(b"\n") + 1)
            raise
    os.fsync(handle)


def _chunks(records: Sequence[CandidateRecord]) -> Iterator[bytes]:
    lines: list[bytes] = []
    num_bytes = 0
    for record in records:
        lines.append((record.model_dump_json() + "\n").encode())
        num_bytes += len(lines[-1])
        if num_bytes >= CHUNK_BYTES:
            yield b"".join(lines)
            lines, num_bytes = [], 0
    if lines:
        yield b"".join(lines)
