"""Predicted against measured latency, parameters against latency, and where the time of the run went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.plots import style
from nas.plots.data import errors_pct
from nas.plots.format import duration, milliseconds, percent, words_text
from nas.run_data import LatencyPoint, RunData, words_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Half-width of the shaded band around "predicted = measured".
BAND = 0.10


def predicted_vs_measured(run: RunData) -> go.Figure:
    """Parity of whole U-Nets with 90 % intervals over a +-10 % band; those that the fit saw apart from the unseen ones.

    Raises:
        ValueError: no measured whole U-Net.
    """
    import plotly.graph_objects as go

    points = run.device.points if run.device else ()
    if not points:
        raise ValueError("no whole U-Net was measured")
    values = [v for p in points for v in (p.measured_ms, p.predicted_ms)]
    low, high = min(values) * 0.9, max(values) * 1.1
    figure = go.Figure()
    # Beyond the range that is shown, on whichever scale.
    ends = [low / 2, high * 2]
    edge = {"mode": "lines", "hoverinfo": "skip", "line": {"width": 0}}
    figure.add_scatter(x=ends, y=[end * (1 - BAND) for end in ends], showlegend=False, **edge)
    figure.add_scatter(
        x=ends,
        y=[end * (1 + BAND) for end in ends],
        fill="tonexty",
        fillcolor="rgba(0,114,178,0.10)",
        name="±10 %",
        **edge,
    )
    figure.add_scatter(
        x=ends,
        y=ends,
        mode="lines",
        line={"color": style.GREY, "width": 1},
        hoverinfo="skip",
        showlegend=False,
    )
    looks = (
        (
            "fit",
            "in the fit",
            {"color": "white", "size": 8, "symbol": "circle", "line": {"color": style.GREY, "width": 1.5}},
        ),
        ("check", "unseen", {"color": style.BLUE, "size": 9}),
    )
    for role, name, marker in looks:
        chosen = [p for p in points if p.role == role]
        text = [
            f"<b>{name}</b> {p.candidate_id}<br>{words_text(words_of(p.candidate_id))}<br>"
            f"measured {milliseconds(p.measured_ms)}, "
            f"predicted {milliseconds(p.predicted_ms)}{_interval(p)}: off by {percent(p.error_pct)}"
            for p in chosen
        ]
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [0.0 if p.high_ms is None else p.high_ms - p.predicted_ms for p in chosen],
            "arrayminus": [0.0 if p.low_ms is None else p.predicted_ms - p.low_ms for p in chosen],
            "thickness": 1,
            "width": 0,
        }
        figure.add_scatter(
            x=[p.measured_ms for p in chosen],
            y=[p.predicted_ms for p in chosen],
            mode="markers",
            name=f"{name} ({len(chosen)})",
            marker=marker,
            error_y=bars if any(p.low_ms is not None for p in chosen) else None,
            text=text,
            hovertemplate="%{text}<extra></extra>",
            visible=bool(chosen),
        )
    errors = errors_pct(run)
    if errors:
        figure.add_annotation(
            text=f"unseen: median {percent(errors[0])}, worst {percent(errors[1])}",
            x=0.98,
            y=0.03,
            xref="paper",
            yref="paper",
            xanchor="right",
            yanchor="bottom",
            showarrow=False,
        )
    style.layout(figure, height=440)
    # Both axes from the same values, so that the diagonal is one.
    shared = [low, high]
    own: dict[str, Any] = {} if style.is_log(shared) else {"range": shared}
    figure.update_layout(
        xaxis=style.axis("measured latency (ms)", shared, **own),
        yaxis=style.axis("predicted latency (ms)", shared, **own),
    )
    return figure


def _interval(point: LatencyPoint) -> str:
    return "" if point.low_ms is None else f" ({milliseconds(point.low_ms)} to {milliseconds(point.high_ms)})"


def params_vs_latency(run: RunData) -> go.Figure:
    """Parameters against predicted latency of every finished candidate, coloured by latent error; picks ringed.

    Raises:
        ValueError: no finished candidate.
    """
    import math

    import plotly.graph_objects as go

    if not run.done:
        raise ValueError("no finished candidate to draw")
    errors = style.log_floor([c.latent_error or 0.0 for c in run.done])
    low, high = min(errors), max(errors)
    log = style.is_log(errors)
    at = style.ticks(low, high) if log else None
    bar = {"title": {"text": "latent error", "side": "right"}, "thickness": 12, "outlinewidth": 0}
    if at:
        bar |= {"tickvals": [math.log10(v) for v in at], "ticktext": [f"{v:g}" for v in at]}
    figure = go.Figure()
    figure.add_scatter(
        x=[c.num_params for c in run.done],
        y=[c.latency_ms for c in run.done],
        mode="markers",
        marker={
            "color": [math.log10(v) for v in errors] if log else errors,
            "colorscale": style.SEQUENTIAL,
            "size": 10,
            "line": {"color": style.GREY, "width": 0.7},
            "colorbar": bar,
        },
        text=[style.hover(c) for c in run.done],
        hovertemplate="%{text}<extra></extra>",
    )
    style.layout(figure, height=420, showlegend=False)
    for key, side in (("num_params", "xaxis"), ("latency_ms", "yaxis")):
        title, write = style.AXES[key]
        figure.update_layout({side: style.axis(title, [getattr(c, key) for c in run.done], write)})
    return figure


def phase_times(run: RunData) -> go.Figure:
    """Seconds of each phase as bars, in the order of the run.

    Raises:
        ValueError: no phase has ended.
    """
    import plotly.graph_objects as go

    if not run.phases:
        raise ValueError("no phase has ended")
    names, seconds = list(run.phases), list(run.phases.values())
    figure = go.Figure()
    figure.add_bar(
        x=seconds,
        y=names,
        orientation="h",
        marker={"color": style.BLUE},
        text=[duration(value) for value in seconds],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:.1f} s<extra></extra>",
    )
    style.layout(figure, height=90 + 30 * len(names), showlegend=False, bargap=0.35)
    figure.update_layout(
        xaxis=style.axis("seconds", [], range=[0, 1.15 * max(seconds)]),
        yaxis=style.axis("", [], autorange="reversed", showgrid=False),
    )
    return figure
