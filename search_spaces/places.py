"""Whether a result could be written where the user wants it, asked before the work; nothing of the trial stays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from search_spaces.atomic import temporary_name
from search_spaces.errors import UserError

_FILE = "give the path of a file that can be written"
_FOLDER = "give a folder that can be written"


def check_file(path: Path, what: str) -> None:
    """Raise unless a file could be written at `path`, in folders that are made where they are missing.

    By trying: permissions alone say nothing of root, read-only mounts, quotas and the likes of /proc.

    Args:
        what: option that `path` was given by, such as ``--out``; begins the message.

    Raises:
        UserError: a folder or a device is there, a file in place of a folder above, nothing may be written, no room.
    """
    with _refused_as(f"{what} {path}", _FILE), _made(path.parent):
        _check_name(path)


def check_folder(folder: Path, what: str, files: Iterable[str] = (), advice: str = _FOLDER) -> None:
    """Raise unless `folder` is there or can be made, and could hold these files.

    Raises:
        UserError: as :func:`check_file`, a file in place of `folder`, or a folder in place of one of `files`; ends with
            `advice`.
    """
    with _refused_as(f"{what} {folder}", advice), _made(folder):
        for name in files or ("probe",):
            _check_name(folder / name)


class _RefusedError(Exception):
    """Why nothing could be written there."""


@contextmanager
def _refused_as(said: str, advice: str) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise UserError(f"{said}: cannot be written ({error}); {advice}") from None


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder for the time of the body; those that were made for it are removed again."""
    made: list[Path] = []
    try:
        for place in (*reversed(folder.parents), folder):
            try:
                place.mkdir()
                made.append(place)
            except OSError as error:
                if not place.exists():
                    raise _RefusedError(f"folder {place} cannot be made: {error.strerror}") from None
                if not place.is_dir():
                    raise _RefusedError(f"{place} is no folder") from None
        yield
    finally:
        for place in reversed(made):
            with contextlib.suppress(OSError):  # another process has put something there
                place.rmdir()


def _check_name(path: Path) -> None:
    probe = None
    try:
        if path.is_dir():
            raise _RefusedError(f"{path} is a folder")
        if path.exists() and not path.is_file():  # a file that took its name would take the device from the machine
            raise _RefusedError(f"{path} is a device or a pipe")
        probe = temporary_name(path)
        probe.write_bytes(b"x")
    except OSError as error:
        raise _RefusedError(f"{path.parent}: {error.strerror}") from None
    finally:
        if probe is not None:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
