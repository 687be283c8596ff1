"""A folder of runs, listed with how each is doing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nas.live.run import LiveRun
from nas.live.status import RunStatus
from nas.plots.format import NONE, count
from nas.plots.live import fronts_compared
from nas.progress import duration
from nas.report import page
from search_spaces.errors import UserError

# Runs whose fronts are drawn together: the first ones by name; more would not be told apart.
MOST_DRAWN = 12
MOST_POINTS = 300


class RunList:
    """The runs right inside a folder.

    Args:
        folder: it holds runs.

    Raises:
        UserError: it does not.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live: dict[str, LiveRun] = {}
        self._lock = threading.Lock()
        if not self.paths():
            raise UserError(
                f"{folder}: neither a run nor a folder of runs (no config.yaml there, nor in a folder right inside); "
                "give one of these"
            )

    def paths(self) -> dict[str, Path]:
        """Name of its folder to the run's path."""
        return {path.parent.name: path.parent for path in sorted(self._folder.glob("*/config.yaml"))}

    def data(self, known: str = "") -> dict[str, Any]:
        """What changes on the page; figures are left out where `known` is their version."""
        with self._lock:
            rows, parts = [], []
            fronts: dict[str, list[tuple[float, float]]] = {}
            for name, path in self.paths().items():
                try:
                    live = self._live.get(name) or self._live.setdefault(name, LiveRun(path))
                    status = live.status()
                except UserError as error:
                    rows.append([_link(name), "damaged", page.text(error), "", "", "", ""])
                    continue
                rows.append(_row(name, status))
                if len(fronts) < MOST_DRAWN and status.candidates_done:
                    values = live.results.values[live.on_front()][:MOST_POINTS]
                    fronts[name] = [(float(latency), float(error)) for error, latency, _ in values]
                    parts.append((name, live.results.num))
        version = f"{hash(tuple(parts)) & 0xFFFFFFFFFFFF:x}"
        figures = {"fronts": json.loads(str(fronts_compared(fronts).to_json()))} if fronts else {}
        names = ("run", "state", "phase", "evaluated", "left", "front", "hypervolume")
        table = page.table(names, rows, [False, False, False, True, True, True, True], cards=True)
        return {
            "title": f"{len(rows)} runs",
            "state": "running" if any("running" in row[1] for row in rows) else "finished",
            "html": {"runs": table},
            "version": version,
            "figures": None if version == known else figures,
        }


def _row(name: str, status: RunStatus) -> list[str]:
    phase = status.phase
    left = NONE if phase is None or phase.remaining_s is None else duration(phase.remaining_s)
    failed = f"<small>{status.candidates_failed:,} failed</small>" if status.candidates_failed else ""
    return [
        _link(name),
        f'<span class="state {status.state}">{status.state}</span>',
        NONE if phase is None else page.text(phase.name),
        f"{status.candidates_done:,} of {status.candidates_total:,}{failed}",
        left,
        count(status.front_size),
        f"{status.hypervolume:.4f}" if status.candidates_done else NONE,
    ]


def _link(name: str) -> str:
    return f'<a href="/run/{quote(name, safe="")}/">{page.text(name)}</a>'
