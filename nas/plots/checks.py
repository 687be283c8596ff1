"""Where along the schedule finished models leave their teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.plots import style
from nas.plots.format import error
from nas.run_data import RunData

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLORS = (style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE, style.SKY)


def noise_error_by_timestep(run: RunData) -> go.Figure:
    """Noise error of each finished model by timestep, with 95 % intervals; 0 is clean, the right end is pure noise.

    Raises:
        ValueError: no finished model was checked.
    """
    import plotly.graph_objects as go

    rows = [row for row in run.closing if row.checks is not None and row.checks.noise_curve]
    if not rows:
        raise ValueError("no finished model was checked")
    figure, every = go.Figure(), []
    for number, row in enumerate(rows):
        assert row.checks is not None
        points = row.checks.noise_curve
        values = style.log_floor([p.error for p in points])
        every += values
        figure.add_scatter(
            x=[p.timestep for p in points],
            y=values,
            error_y={
                "type": "data",
                "array": [(p.high or p.error) - p.error for p in points],
                # The bar ends a little above 0, which a logarithmic axis does not have.
                "arrayminus": [min(p.error - (p.error if p.low is None else p.low), 0.95 * p.error) for p in points],
                "thickness": 1,
                "width": 2,
            },
            mode="lines+markers",
            name=row.name,
            line={"color": _COLORS[number % len(_COLORS)], "width": 2},
            marker={"size": 6},
            text=[error(p.error) for p in points],
            hovertemplate="timestep %{x:.0f}: noise error %{text}<extra>" + row.name + "</extra>",
        )
    style.layout(figure, height=360)
    figure.update_layout(xaxis=style.axis("timestep", []), yaxis=style.axis("noise error", every), showlegend=True)
    return figure
