"""Where `nanosd retarget` writes, and its tables: one folder for each profile, whole from one process."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from nas.overwriting import run_around
from search_spaces.errors import UserError
from search_spaces.places import check_folder

if TYPE_CHECKING:
    from nas.latency import DeviceFacts
    from nas.run.retarget import Moved, Retargeted

FRONT, PICKS, DEVICE, PAGE = "front.csv", "picks.json", "device.json", "retarget.html"
_FOLDER = "retarget"
#: Writing takes well under a second.
_WAIT_S = 60.0


def check_output(run_dir: Path, out: Path | None) -> None:
    """Raise unless the results could be written; nothing is.

    Raises:
        UserError: a folder or file that cannot be written, or is in the way, or a folder of a run's own files.
    """
    if out is not None:
        _check_is_no_runs_own(out)
        check_folder(out, "--out", (FRONT, PICKS, DEVICE, PAGE))
    else:
        check_folder(run_dir / _FOLDER, "results in", advice="give another folder with --out")


def _check_is_no_runs_own(out: Path) -> None:
    run = run_around(out)
    if run is not None and out.resolve().relative_to(run).parts[:1] != (_FOLDER,):
        raise UserError(
            f"--out {out}: run {run} keeps its own files there; give a folder elsewhere, or one below {run / _FOLDER}"
        )


@contextmanager
def output_folder(result: Retargeted, run_dir: Path, out: Path | None) -> Iterator[Path]:
    """The folder to write into, `out` or one of the profile's own in the run; no other process writes there meanwhile.

    The run's folder for a profile is called after the device. Where that has the results of another profile of the same
    name, a few digits of the profile's content are added.

    Raises:
        UserError: it cannot be written, or another process holds it for a minute.
    """
    from nas.atomic import ensure_writable
    from nas.folder_lock import folder_lock

    base = run_dir / _FOLDER if out is None else out
    ensure_writable(base)
    with folder_lock(base, f"results in {base}", _WAIT_S):
        yield out if out is not None else _own_folder(base, result.there)


def _own_folder(base: Path, there: DeviceFacts) -> Path:
    folder = base / there.folder
    try:
        key = json.loads((folder / DEVICE).read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or of a version that wrote none
        return folder
    return folder if key == there.key else base / f"{there.folder}-{there.key[:6]}"


def write_tables(result: Retargeted, folder: Path) -> dict[str, Path]:
    """Write the candidates of either front, the picks there and what the profile is; the paths by name.

    Raises:
        UserError: the folder cannot be written.
    """
    from nas.atomic import write_bytes, write_json
    from nas.picks import save_picks

    text = io.StringIO()
    rows = [_row(candidate) for candidate in result.on_either_front]
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files = {"front": folder / FRONT, "picks": folder / PICKS, "device": folder / DEVICE}
    write_bytes(files["front"], text.getvalue().encode())
    save_picks(result.picks_there, files["picks"])
    write_json(files["device"], asdict(result.there))
    return files


def _row(candidate: Moved) -> dict[str, object]:
    here, there = candidate.here, candidate.there
    return {
        "id": candidate.candidate,
        **candidate.options,
        "latent_error": candidate.latent_error,
        "num_params": candidate.num_params,
        "num_macs": candidate.num_macs,
        "latency_here_ms": here.latency_ms,
        "low_here_ms": here.low_ms,
        "high_here_ms": here.high_ms,
        "rank_here": here.rank,
        "on_front_here": here.on_front,
        "latency_there_ms": there.latency_ms,
        "low_there_ms": there.low_ms,
        "high_there_ms": there.high_ms,
        "rank_there": there.rank,
        "on_front_there": there.on_front,
        "extrapolates_there": there.extrapolates,
        "move": candidate.move,
        "front_tie": candidate.front_tie,
        "rank_tie": candidate.rank_tie,
    }
