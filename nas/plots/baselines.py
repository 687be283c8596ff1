"""Finished searched candidates and hand-made baselines: beside each other, and on the front's own axes."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from nas.plots import style
from nas.plots.format import count, error, milliseconds
from nas.run_data import RunData

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas.baselines import Baselines, Entry

SEARCHED, BY_HAND = "searched, finished", "made by hand, finished"
#: (name, colour, symbol): both in every kind of chart, two- and three-dimensional.
MARKS = ((SEARCHED, style.BLUE, "circle-open"), (BY_HAND, style.INK, "cross"))


class Point(NamedTuple):
    """An entry on the front's axes. `is_scaled`: its latency is measured, and scaled to the others' predictions."""

    entry: Entry
    latency_ms: float
    is_scaled: bool


def finished_points(record: Baselines) -> list[Point]:
    """Entries with their latency as the front has it: predicted.

    The profile of a run may not know a baseline's options. Then its measured latency is multiplied by the median ratio
    of predicted to measured over the entries that have both.
    """
    both = [e.predicted_ms / e.measured_ms for e in record.entries if e.predicted_ms is not None]
    ratio = median(both) if both and record.latency == "measured" else None
    points = []
    for entry in record.entries:
        if entry.predicted_ms is not None:
            points.append(Point(entry, entry.predicted_ms, False))
        elif ratio is not None:
            points.append(Point(entry, entry.measured_ms * ratio, True))
    return points


def values_on_front(run: RunData, key: str) -> list[float]:
    """What :func:`add_finished` puts on an axis of the front, for the axis' range."""
    return [] if run.baselines is None else [_value(point, key) for point in finished_points(run.baselines)]


def add_finished(figure: go.Figure, run: RunData, axes: Sequence[str], legend: bool = True, **place: int) -> None:
    """Add the finished entries to a chart of the front; `axes` are two or three objectives."""
    if run.baselines is None:
        return
    points = finished_points(run.baselines)
    for name, color, symbol in MARKS:
        group = [p for p in points if p.entry.is_baseline == (name == BY_HAND)]
        if not group:
            continue
        line = {"color": color, "width": 2}
        look: dict[str, Any] = {
            **{axis: [_value(p, key) for p in group] for axis, key in zip("xyz", axes, strict=False)},
            "mode": "markers",
            "name": name,
            "legendgroup": name,
            "showlegend": legend,
            "text": [hover(p.entry, p.is_scaled) for p in group],
            "hovertemplate": "%{text}<extra></extra>",
        }
        if len(axes) == 3:
            figure.add_scatter3d(**look, marker={"color": color, "symbol": symbol, "size": 5, "line": line})
        else:
            figure.add_scatter(**look, marker={"color": color, "symbol": symbol, "size": 11, "line": line}, **place)


def finished_pair(run: RunData, x: str = "latency_ms") -> go.Figure:
    """Finished latent error, with 95 % intervals, against latency (`latency_ms`) or parameters (`num_params`).

    Raises:
        ValueError: a run without baselines.
    """
    import plotly.graph_objects as go

    record = run.baselines
    if record is None:
        raise ValueError("no baselines to draw")
    figure = go.Figure()
    for name, color, symbol in MARKS:
        group = [e for e in record.entries if e.is_baseline == (name == BY_HAND)]
        spans = [e.intervals.get("latent_error") for e in group]
        errors = [e.after["latent_error"] for e in group]
        figure.add_scatter(
            x=[_cost(record, e, x) for e in group],
            y=errors,
            error_y={
                "type": "data",
                "array": [span[1] - v if span else 0.0 for span, v in zip(spans, errors, strict=True)],
                "arrayminus": [v - span[0] if span else 0.0 for span, v in zip(spans, errors, strict=True)],
                "thickness": 1,
                "width": 2,
            },
            mode="markers+text" if name == BY_HAND else "markers",
            name=name,
            text=[e.name for e in group],
            textposition="top center",
            hovertext=[hover(e) for e in group],
            hovertemplate="%{hovertext}<extra></extra>",
            marker={"color": color, "symbol": symbol, "size": 11, "line": {"color": color, "width": 2}},
        )
    style.layout(figure, height=360)
    title, write = style.AXES[x]
    title = f"{record.latency} latency (ms)" if x == "latency_ms" else title
    figure.update_layout(
        xaxis=style.axis(title, [_cost(record, e, x) for e in record.entries], write),
        # Linear: a copy of the teacher would take most of a logarithmic axis.
        yaxis=style.axis("latent error, finished", [], rangemode="tozero"),
    )
    return figure


def hover(entry: Entry, is_scaled: bool = False) -> str:
    """Hover text of a finished entry."""
    predicted = "no prediction" if entry.predicted_ms is None else f"{milliseconds(entry.predicted_ms)} predicted"
    lines = [
        f"<b>{entry.name}</b>, finished",
        entry.candidate,
        f"{count(entry.num_params)} parameters, {count(entry.num_macs)} MACs",
        f"{milliseconds(entry.measured_ms)} measured, {predicted}",
        f"latent error {error(entry.after['latent_error'])}, before {error(entry.before['latent_error'])}",
    ]
    if is_scaled:
        lines.append("drawn at its measured latency, scaled as the others' predictions are")
    return "<br>".join(lines)


def _value(point: Point, key: str) -> float:
    own = {"latent_error": point.entry.after["latent_error"], "latency_ms": point.latency_ms}
    return float(own.get(key, point.entry.num_params))


def _cost(record: Baselines, entry: Entry, key: str) -> float:
    return record.latency_ms(entry) if key == "latency_ms" else float(entry.num_params)
