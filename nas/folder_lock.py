"""One process at a time in a folder; the operating system lets go however the process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search_spaces.errors import UserError


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[None]:
    """Holds `folder`, which exists, for this process.

    Raises:
        UserError: another process holds it (`what` begins the line), or it cannot be locked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{what}: another nanosd process is working in it; wait for it, stop it, or give another folder"
        ) from None
    except OSError as error:
        raise UserError(f"{what}: cannot be locked ({error.strerror}); give another folder") from None
    try:
        yield
    finally:
        lock.release()
