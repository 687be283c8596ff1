"""The folder beside a profile where its measurements are kept, and who may work on the profile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.folder_lock import folder_lock


def work_folder(out: Path) -> Path:
    """Where the measurements of the profile at `out` are kept: `p.json.work` for `p.json`."""
    return out.with_name(out.name + ".work")


@contextmanager
def sole_writer(out: Path) -> Iterator[None]:
    """Holds the profile at `out` against every calibration that measures; its folder is locked, and not made.

    A calibration that measures nothing takes seconds, and leaves no folder behind just to be locked.

    Raises:
        UserError: another process measures this profile.
    """
    folder = work_folder(out)
    if not folder.is_dir():
        yield
        return
    with folder_lock(folder, f"calibration in {folder}"):
        yield
