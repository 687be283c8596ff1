"""One process at a time in a folder; the operating system lets go however the process ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search_spaces.errors import UserError


@contextmanager
def folder_lock(folder: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Holds `folder`, which exists, for this process, once another has let go of it, for which it waits so long.

    Raises:
        UserError: another process holds it (`what` begins the line), or it cannot be locked.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=wait_s)
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
