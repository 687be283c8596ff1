"""Errors before and after brief distillation against those after a long one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.plots import style
from nas.plots.format import count, error, milliseconds

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas.fidelity.proxy_record import Proxy


def brief_vs_long(proxy: Proxy) -> go.Figure:
    """Latent error as assembled and after the longest brief distillation, against that after the long one.

    Raises:
        ValueError: no candidate has been measured after all of them.
    """
    import plotly.graph_objects as go

    points = [
        (candidate, raw.latent_error, brief.latent_error, long.latent_error)
        for candidate in proxy.complete
        for raw, brief, long in [[candidate.at(n) for n in (0, proxy.steps[-1], proxy.long_steps)]]
        if raw is not None and brief is not None and long is not None
        if raw.latent_error is not None and brief.latent_error is not None and long.latent_error is not None
    ]
    if not points:
        raise ValueError("no candidate was distilled briefly and for long")
    long_errors = style.log_floor([float(long) for *_, long in points])
    text = [
        f"{c.candidate}<br>{count(c.num_params)} parameters, {milliseconds(c.latency_ms)} predicted<br>latent error "
        f"{error(raw)} as assembled, {error(brief)} after {proxy.steps[-1]:,} steps, {error(long)} after "
        f"{proxy.long_steps:,}"
        for c, raw, brief, long in points
    ]
    figure = go.Figure()
    across: list[float] = []
    for name, column, marker in (
        ("as assembled", 1, {"color": style.GREY, "symbol": "circle-open", "size": 8}),
        (f"after {proxy.steps[-1]:,} steps", 2, {"color": style.BLUE, "size": 9, "opacity": 0.85}),
    ):
        x = style.log_floor([float(point[column]) for point in points])  # type: ignore[arg-type]
        across += x
        figure.add_scatter(
            x=x,
            y=long_errors,
            mode="markers",
            name=name,
            marker=marker,
            text=text,
            hovertemplate="%{text}<extra></extra>",
        )
    ends = [max(min(across), min(long_errors)), min(max(across), max(long_errors))]
    if ends[0] < ends[1]:  # where distilling longer changes nothing
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            line={"color": style.FAINT, "width": 1},
            hoverinfo="skip",
            showlegend=False,
        )
    style.layout(figure, height=400)
    figure.update_layout(
        xaxis=style.axis("latent error, brief", across),
        yaxis=style.axis(f"latent error after {proxy.long_steps:,} steps", long_errors),
    )
    return figure
