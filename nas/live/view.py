"""What the live page shows of a run, as JSON: ready pieces of HTML, escaped here, and plotly figures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from nas.live.run import LiveRun
from nas.live.sections import failures, head, proposals, workers
from nas.live.status import RunStatus
from nas.plots import live as plots
from nas.plots.live import Judged, Point
from nas.search.record import CandidateRecord

# Finished candidates that are drawn: the front, the last ones, and others at random.
MOST_FRONT, MOST_LAST, MOST_OTHERS = 1_000, 200, 600
JUDGED = 300


class RunView:
    """A run as its page shows it; figures are made again only when something of theirs has changed.

    Args:
        live: the run.
    """

    def __init__(self, live: LiveRun) -> None:
        self.live = live
        self._figures: tuple[str, dict[str, Any]] = ("", {})
        self._points: tuple[int, list[Point]] = (-1, [])

    def data(self, known: str = "") -> dict[str, Any]:
        """What changes on the page.

        Args:
            known: `version` of the figures that the page has; they are left out if these are still so.

        Raises:
            UserError: a damaged recipe or record.
        """
        status = self.live.status()
        version, figures = self._drawn(status)
        return {
            "title": f"{status.name}: {status.state}",
            "state": status.state,
            "html": {
                "head": head(status),
                "workers": workers(status),
                "proposals": proposals(status),
                "failures": failures(status),
            },
            "version": version,
            "figures": None if version == known else figures,
        }

    def _drawn(self, status: RunStatus) -> tuple[str, dict[str, Any]]:
        flying = [w for w in status.workers if w.candidate]
        parts = [self.live.results.num, self.live.study.version, *(w.candidate for w in flying)]
        version = f"{hash(tuple(parts)) & 0xFFFFFFFFFFFF:x}"
        if version != self._figures[0]:
            self._figures = (version, self._draw(status))
        return self._figures

    def _draw(self, status: RunStatus) -> dict[str, Any]:
        results, bounds = self.live.results, self.live.bounds
        points = self._evaluated()
        flying = [
            Point(
                candidate=w.candidate,
                words=w.options,
                latency_ms=w.latency_ms,
                num_params=w.num_params or 0,
                error=None,
                predicted=w.predicted,
                prior=w.prior,
                worker=w.worker,
            )
            for w in status.workers
            if w.candidate is not None and w.latency_ms is not None
        ]
        history = results.history(bounds).tolist()
        figures = {}
        if points or flying:
            figures["front"] = plots.front_growing(points, flying, bounds[0] if bounds else None)
        if history:
            ended = results.ended[results.rows]
            order = np.arange(1, len(history) + 1).tolist()
            figures["evaluations"] = plots.hypervolume_over(order, history, "finished evaluations")
            known = np.isfinite(ended)
            if known.any():
                hours, unit = _elapsed(ended[known])
                figures["time"] = plots.hypervolume_over(hours, np.array(history)[known].tolist(), unit)
        judged = self._judged()
        if any(j.predicted and j.measured is not None for j in judged):
            figures["calibration"] = plots.predicted_against_measured(judged)
        if any(j.gain for j in judged):
            figures["gain"] = plots.expected_gain(judged)
        # By plotly's own writer, which knows numpy and writes NaN as null.
        return {name: json.loads(str(figure.to_json())) for name, figure in figures.items()}

    def _evaluated(self) -> list[Point]:
        results = self.live.results
        if self._points[0] != results.num:
            places = drawn_places(self.live.on_front())
            records = results.store.at(results.rows[places])
            on_front = self.live.on_front()[places]
            self._points = (
                results.num,
                [
                    _point(record, bool(front), float(results.values[place, 0]), int(place) + 1)
                    for record, front, place in zip(records, on_front, places, strict=True)
                ],
            )
        return self._points[1]

    def _judged(self) -> list[Judged]:
        found = []
        for trial in self.live.study.last(JUDGED):
            gain, volume = trial.reason_number("expected_improvement"), trial.reason_number("hypervolume")
            share = gain / volume if gain is not None and volume else None
            name = str(trial.attrs["candidate"])
            found.append(Judged(name, trial.number, trial.predicted, trial.measured, share))
        return found[::-1]


def drawn_places(on_front: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Places, in growing order, of the finished candidates that are drawn, of a mask (n,) of those on the front."""
    front, others = np.flatnonzero(on_front), np.flatnonzero(~on_front)
    if len(front) > MOST_FRONT:
        front = front[np.linspace(0, len(front) - 1, MOST_FRONT).astype(int)]
    last, rest = others[-MOST_LAST:], others[:-MOST_LAST]
    if len(rest) > MOST_OTHERS:
        rest = np.random.default_rng(0).choice(rest, MOST_OTHERS, replace=False)
    return np.sort(np.concatenate([front, last, rest]))


def _point(record: CandidateRecord, on_front: bool, error: float, order: int) -> Point:
    return Point(
        candidate=record.candidate,
        words=record.options,
        latency_ms=record.latency_ms,
        num_params=record.num_params,
        error=error,
        on_front=on_front,
        order=order,
    )


def _elapsed(ended: np.ndarray[Any, Any]) -> tuple[list[float], str]:
    """Time since the first end, in a unit that suits, growing; the clocks of several nodes may differ a little."""
    since = np.maximum.accumulate(ended - ended[0])
    for unit, size in (("hours", 3600.0), ("minutes", 60.0)):
        if since[-1] >= 2 * size:
            return (since / size).tolist(), f"{unit} since the first result"
    return since.tolist(), "seconds since the first result"
