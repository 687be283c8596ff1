"""Folders that are either finished or not there.

A folder is written under a hidden name next to its place, flushed to disk and renamed. A process killed
at any moment leaves the old folder, the new one, or (between two renames) a hidden copy of the old one
that the next call puts back; it never leaves a half-written folder under the final name.
"""

from __future__ import annotations

import glob
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from search_spaces.errors import UserError

_PARTIAL = "partial"
_REPLACED = "replaced"


def publish_folder(target: Path, write: Callable[[Path], None], is_ours: Callable[[Path], bool]) -> None:
    """Call `write` on an empty folder and put the result at `target` in one step.

    `is_ours(target)` says whether an existing folder may be replaced. If `write` raises, nothing of
    the new folder stays and `target` is what it was.

    Errors: `UserError` when `target` holds something else or cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(target)
        if target.exists() and not (target.is_dir() and (is_ours(target) or not any(target.iterdir()))):
            raise UserError(
                f"folder {target} exists and is not an exported variant: legal is a new, an empty or an "
                "earlier exported folder; choose another one or move it away"
            )
        temporary = _hidden(target, _PARTIAL)
        temporary.mkdir()
    except OSError as error:
        raise cannot_write(target, error) from error
    try:
        write(temporary)
        _usual_modes(temporary)
        _flush(temporary)
        _swap(temporary, target)
    except (OSError, SafetensorError) as error:  # safetensors tells of a full disk in its own way
        raise cannot_write(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(target: Path) -> None:
    """Clear what killed processes left next to `target`; put back an old folder caught mid-swap."""
    for leftover in sorted(target.parent.glob(f".{glob.escape(target.name)}.{_REPLACED}-*")):
        if _owner_is_running(leftover):
            continue
        if target.exists():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.rename(target)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.{_PARTIAL}-*"):
        if not _owner_is_running(leftover):
            shutil.rmtree(leftover, ignore_errors=True)


def cannot_write(path: Path, error: BaseException) -> UserError:
    """The one line for a place that cannot be written."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return UserError(
        f"cannot write {path}: {reason}; legal is a writable folder with free space; free some or choose another place"
    )


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _owner_is_running(leftover: Path) -> bool:
    """Whether the process that made a hidden folder is another one that still lives."""
    process = int(leftover.name.rsplit("-", 2)[1])
    if process == os.getpid():
        return False  # a folder of this process that is in use is never looked at here
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
    else:
        replaced = _hidden(target, _REPLACED)
        target.rename(replaced)
        temporary.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
    _flush_one(target.parent)


def _usual_modes(folder: Path) -> None:
    """Let others read the files as they may the folder itself; libraries that write in two steps keep them out.

    The folder is as the umask (or the place's own default) has it, which no process can ask for without changing it.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
