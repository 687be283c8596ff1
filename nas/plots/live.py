"""Figures of a sweep that goes on: what is evaluated, the hypervolume, and how the predictions did."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.plots import style
from nas.plots.format import count, error, milliseconds, words_text

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Lines that change at each evaluation only where the hypervolume does.
_MOST_POINTS = 1_000


@dataclass(frozen=True)
class Point:
    """An evaluated candidate, or one under evaluation (`error` None)."""

    candidate: str
    words: Mapping[str, str]
    latency_ms: float
    num_params: int
    error: float | None
    on_front: bool = False
    predicted: tuple[float, float, float] | None = None
    """5 %, 50 % and 95 % quantiles of the error."""
    prior: float | None = None
    worker: str = ""
    order: int = 0
    """Number of the evaluation, from 1."""


@dataclass(frozen=True)
class Judged:
    """A prediction of the sampler, what was measured, and what was expected of it."""

    candidate: str
    trial: int
    predicted: tuple[float, float, float] | None
    measured: float | None
    gain: float | None
    """Expected hypervolume improvement, as a share of the hypervolume then."""


def front_growing(points: Sequence[Point], flying: Sequence[Point], bounds: tuple[float, float] | None) -> go.Figure:
    """Error against predicted latency, coloured by parameters; candidates under evaluation where they are expected.

    Args:
        points: finished ones.
        flying: under evaluation; drawn are those with a prediction.
        bounds: least and largest latency of the space, so that the axis does not move while the front grows.
    """
    figure = _figure()
    params = [float(p.num_params) for p in points]
    drawn = [p for p in flying if p.predicted or p.prior is not None]
    errors = [p.error for p in points if p.error is not None]
    for p in drawn:
        errors += list(p.predicted) if p.predicted else [p.prior or 0.0]
    floor = style.log_floor([*errors, 1.0])
    least = min(floor)
    color = {
        "cmin": min(params, default=0.0),
        "cmax": max(params, default=1.0),
        "colorscale": style.SEQUENTIAL,
        "reversescale": True,
    }
    for name, on_front, size, look in (
        ("dominated", False, 6, {"opacity": 0.6, "line": {"width": 0}}),
        ("front", True, 11, {"opacity": 1.0, "line": {"width": 1, "color": style.GREY}}),
    ):
        group = [p for p in points if p.on_front == on_front]
        bar: dict[str, Any] = {}
        if on_front and len(set(params)) > 1:
            at = [min(params), (min(params) + max(params)) / 2, max(params)]
            ticks = {"tickvals": at, "ticktext": [count(value) for value in at]}
            bar = {
                "showscale": True,
                "colorbar": {
                    "title": {"text": "parameters", "side": "right"},
                    "thickness": 10,
                    "outlinewidth": 0,
                    **ticks,
                },
            }
        figure.add_scatter(
            x=[p.latency_ms for p in group],
            y=[max(p.error or 0.0, least) for p in group],
            mode="markers",
            name=name,
            marker={"size": size, "color": [p.num_params for p in group], **color, **look, **bar},
            text=[_hover(p) for p in group],
            hovertemplate="%{text}<extra></extra>",
        )
    if drawn:
        middles = [p.predicted[1] if p.predicted else p.prior or 0.0 for p in drawn]
        figure.add_scatter(
            x=[p.latency_ms for p in drawn],
            y=[max(m, least) for m in middles],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [p.predicted[2] - m if p.predicted else 0.0 for p, m in zip(drawn, middles, strict=True)],
                "arrayminus": [m - p.predicted[0] if p.predicted else 0.0 for p, m in zip(drawn, middles, strict=True)],
                "color": style.VERMILLION,
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            name="under evaluation, as predicted (90 %)",
            marker={"symbol": "diamond-open", "size": 11, "color": style.VERMILLION, "line": {"width": 2}},
            text=[_hover(p) for p in drawn],
            hovertemplate="%{text}<extra></extra>",
        )
    title, write = style.AXES["latent_error"]
    y = style.axis(title, [max(value, least) for value in errors], write)
    x = style.axis(style.AXES["latency_ms"][0], [], rangemode="tozero")
    if bounds is not None:
        x["range"] = [0, 1.04 * bounds[1]]
    return _layout(figure, 460, "front", xaxis=x, yaxis=y)


def hypervolume_over(x: Sequence[float], values: Sequence[float], title: str) -> go.Figure:
    """Hypervolume over finished evaluations or over time; of many points those where it changes.

    Args:
        x: growing; of each finished candidate.
        values: hypervolume after it.
        title: of the x axis.
    """
    figure = _figure()
    rows = [i for i in range(len(values)) if i == 0 or i == len(values) - 1 or values[i] != values[i - 1]]
    if len(rows) > _MOST_POINTS:
        step = len(rows) / _MOST_POINTS
        rows = sorted({rows[int(i * step)] for i in range(_MOST_POINTS)} | {rows[-1]})
    figure.add_scatter(
        x=[x[i] for i in rows],
        y=[values[i] for i in rows],
        mode="lines+markers" if len(rows) <= 60 else "lines",
        line={"color": style.BLUE, "shape": "hv", "width": 2},
        marker={"size": 5},
        hovertemplate="%{x:.4~g}: %{y:.4f}<extra></extra>",
    )
    return _layout(
        figure,
        300,
        "line",
        showlegend=False,
        xaxis=style.axis(title, [], rangemode="tozero"),
        yaxis=style.axis("hypervolume", [], rangemode="tozero"),
    )


def predicted_against_measured(judged: Sequence[Judged]) -> go.Figure:
    """The sampler's 90 % intervals of the error against what was measured; the line is where both are equal."""
    figure = _figure()
    pairs = [(j, j.predicted, j.measured) for j in judged if j.predicted is not None and j.measured is not None]
    every = [value for _, predicted, measured in pairs for value in (*predicted, measured)]
    floor = min(style.log_floor([*every, 1.0]))
    for name, color, inside in (("within", style.BLUE, True), ("outside", style.VERMILLION, False)):
        group = [(j, p, m) for j, p, m in pairs if (p[0] <= m <= p[2]) == inside]
        if not group:
            continue
        figure.add_scatter(
            x=[max(m, floor) for _, _, m in group],
            y=[max(p[1], floor) for _, p, _ in group],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [p[2] - p[1] for _, p, _ in group],
                "arrayminus": [p[1] - p[0] for _, p, _ in group],
                "color": color,
                "thickness": 1,
                "width": 2,
            },
            mode="markers",
            name=f"{name} the 90 % interval",
            marker={"color": color, "size": 7, "symbol": "circle" if inside else "diamond"},
            text=[
                f"{html.escape(j.candidate)}<br>predicted {error(p[1])} ({error(p[0])} to {error(p[2])})<br>"
                f"measured {error(m)}"
                for j, p, m in group
            ],
            hovertemplate="%{text}<extra></extra>",
        )
    points = [max(value, floor) for value in every]
    if points:
        ends = [min(points), max(points)]
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"color": style.GREY, "dash": "dot", "width": 1},
            hoverinfo="skip",
            showlegend=False,
        )
    return _layout(
        figure,
        320,
        "line",
        xaxis=style.axis("measured error", [max(m, floor) for _, _, m in pairs]),
        yaxis=style.axis("predicted error", points),
    )


def expected_gain(judged: Sequence[Judged]) -> go.Figure:
    """Expected improvement of each proposal, as a share of the hypervolume at that time."""
    figure = _figure()
    some = [(j.trial, 100 * j.gain, j) for j in judged if j.gain is not None and j.gain > 0]
    figure.add_scatter(
        x=[number for number, _, _ in some],
        y=[gain for _, gain, _ in some],
        mode="markers",
        marker={"color": style.GREEN, "size": 6},
        text=[f"{html.escape(j.candidate)}<br>+{gain:.2g} %" for _, gain, j in some],
        hovertemplate="%{text}<extra></extra>",
    )
    return _layout(
        figure,
        320,
        "line",
        showlegend=False,
        xaxis=style.axis("proposal", [], rangemode="tozero"),
        yaxis=style.axis("expected gain (%)", [gain for _, gain, _ in some]),
    )


def fronts_compared(runs: Mapping[str, Sequence[tuple[float, float]]]) -> go.Figure:
    """The fronts of several runs: error against predicted latency (ms) of each run's front."""
    figure = _figure()
    colors = (style.BLUE, style.VERMILLION, style.GREEN, style.ORANGE, style.PURPLE, style.SKY, style.INK)
    symbols = ("circle", "diamond", "square", "triangle-up", "cross")
    every = [value for points in runs.values() for _, value in points]
    floor = min(style.log_floor([*every, 1.0]))
    for number, (name, points) in enumerate(runs.items()):
        figure.add_scatter(
            x=[latency for latency, _ in points],
            y=[max(value, floor) for _, value in points],
            mode="markers",
            name=html.escape(name),
            marker={
                "color": colors[number % len(colors)],
                "symbol": symbols[number // len(colors) % len(symbols)],
                "size": 8,
            },
            hovertemplate="%{x:.3g} ms, error %{y:.3g}<extra>%{fullData.name}</extra>",
        )
    title, write = style.AXES["latent_error"]
    return _layout(
        figure,
        420,
        "fronts",
        xaxis=style.axis(style.AXES["latency_ms"][0], [], rangemode="tozero"),
        yaxis=style.axis(title, [max(value, floor) for value in every], write),
    )


def _hover(p: Point) -> str:
    head = f"<b>{html.escape(p.candidate)}</b>"
    lines = [head, html.escape(words_text(p.words))]
    lines.append(f"{milliseconds(p.latency_ms)} predicted, {count(p.num_params)} parameters")
    if p.error is not None:
        lines.append(f"error {error(p.error)}, evaluation {p.order:,}")
    elif p.predicted is not None:
        low, middle, high = map(error, p.predicted)
        lines.append(f"error expected: {middle} ({low} to {high}), on {html.escape(p.worker)}")
    else:
        lines.append(f"error by single swaps: {error(p.prior)}, on {html.escape(p.worker)}")
    return "<br>".join(lines)


def _layout(figure: go.Figure, height: int, name: str, **options: Any) -> go.Figure:
    # The reader's zoom stays while the data change.
    return style.layout(figure, height, uirevision=name, margin={"l": 60, "r": 12, "t": 44, "b": 48}, **options)


def _figure() -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure()
