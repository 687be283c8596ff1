"""Files that are either whole or absent: written under a temporary name, flushed, renamed."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class WriteError(UserError):
    """A file could not be written; nothing finished is lost."""


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` to `path` so that a reader sees the old file or the new one, never a part.

    Raises:
        WriteError: the place is full, read-only or no folder; one line, nothing finished is lost.
    """
    path = Path(path)
    with replacing(path, len(data)) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return path


@contextmanager
def replacing(path: Path, num_bytes: int | None = None) -> Iterator[Path]:
    """The name to write a file under, which takes the place of `path` once the body has ended; folders are made.

    `num_bytes` is how large it is, for the message.

    Raises:
        WriteError: the place is full, read-only or no folder; one line, nothing finished is lost.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(path, error, num_bytes) from error


def temporary_name(path: Path) -> Path:
    """What a file is called while it is written."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_error(path: Path, error: OSError, num_bytes: int | None = None) -> WriteError:
    """Why `num_bytes` bytes could not be written to `path`, and what to do, in one line."""
    why, advice = error.strerror or str(error), "choose another place"
    if error.errno in _FULL:
        needed = "" if num_bytes is None else f" ({num_bytes} bytes needed)"
        why, advice = f"{why}{needed}", "make room there or choose another place"
    elif error.errno == errno.EFBIG:
        advice = "raise the limit on the size of files (ulimit -f)"
    elif isinstance(error, (FileExistsError, NotADirectoryError)):  # of a folder above, by mkdir
        why = f"{error.filename} is no folder"
    return WriteError(f"cannot write {path}: {why}; {advice}")


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as indented JSON; NaN and infinity raise ValueError because JSON has neither."""
    return write_bytes(Path(path), (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
