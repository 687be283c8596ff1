"""What each stage option costs in fidelity, how well that predicts whole candidates, and the blocks' losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas.plots import style
from nas.plots.format import error
from nas.run_data import RunData, word_order

if TYPE_CHECKING:
    import plotly.graph_objects as go


def swap_table(run: RunData) -> go.Figure:
    """Latent error of the base network with one stage replaced: stages across, options down, the number in each cell.

    Raises:
        ValueError: no swap table.
    """
    import plotly.graph_objects as go

    if run.swap_table is None:
        raise ValueError("no swap table")
    table = run.swap_table.errors
    # A stage with one option was never swapped.
    stages = [stage for stage, errors in table.items() if len(errors) > 1]
    options = sorted({option for stage in stages for option in table[stage]}, key=word_order)
    cells = [[table[stage].get(option) for stage in stages] for option in options]
    positive = [value for row in cells for value in row if value]
    floor = min(positive, default=1.0)
    # Colour by the logarithm: the errors span decades; an exact copy of the teacher has the palest colour.
    color = [[None if value is None else math.log10(max(value, floor)) for value in row] for row in cells]
    low, high = math.log10(floor), math.log10(max(positive, default=1.0))
    figure = go.Figure()
    figure.add_heatmap(
        z=color,
        x=stages,
        y=options,
        text=[[_cell(table[stage], option) for stage in stages] for option in options],
        texttemplate="%{text}",
        textfont={"size": 12, "color": style.INK},
        colorscale="Blues",
        zmin=low,
        # The largest error stands at half of the scale, so that dark ink stays readable on its cell.
        zmax=low + 2 * max(high - low, 0.5),
        xgap=2,
        ygap=2,
        hoverongaps=False,
        hovertemplate="%{x} replaced by %{y}: latent error %{text}<extra></extra>",
        showscale=False,
    )
    style.layout(figure, height=90 + 36 * len(options))
    figure.update_layout(
        xaxis=style.axis("stage", [], type="category", side="top", showgrid=False),
        yaxis=style.axis("option", [], type="category", autorange="reversed", showgrid=False),
        margin={"l": 76, "r": 8, "t": 52, "b": 12},
    )
    return figure


def _cell(errors: Mapping[str, float | None], option: str) -> str:
    if option not in errors:
        return ""
    value = errors[option]
    return "failed" if value is None else error(value)


def prior_vs_measured(run: RunData) -> go.Figure:
    """Sum of single-swap errors against the measured latent error of each finished candidate.

    Raises:
        ValueError: no finished candidate has both.
    """
    import plotly.graph_objects as go

    points = [c for c in run.done if c.prior is not None and c.latent_error is not None]
    if not points:
        raise ValueError("no finished candidate has a prior")
    prior = style.log_floor([c.prior or 0.0 for c in points])
    measured = style.log_floor([c.latent_error or 0.0 for c in points])
    both = [*prior, *measured]
    line = [min(both), max(both)]
    figure = go.Figure()
    figure.add_scatter(x=line, y=line, mode="lines", line={"color": style.GREY, "width": 1}, hoverinfo="skip")
    figure.add_scatter(
        x=prior,
        y=measured,
        mode="markers",
        marker={"color": style.BLUE, "size": 8, "opacity": 0.85},
        text=[f"{style.hover(c)}<br>prior {error(c.prior)}" for c in points],
        hovertemplate="%{text}<extra></extra>",
    )
    style.layout(figure, height=400, showlegend=False)
    figure.update_layout(
        xaxis=style.axis("prior: sum of single-swap errors", both),
        yaxis=style.axis("measured latent error", both),
    )
    return figure


def distill_losses(run: RunData) -> go.Figure:
    """Relative loss of each surrogate block, first to last step (1 = the teacher output's variance).

    Raises:
        ValueError: no block was distilled.
    """
    import plotly.graph_objects as go

    blocks = [block for block in run.blocks if block.first_loss is not None and block.last_loss is not None]
    if not blocks:
        raise ValueError("no block was distilled")
    labels = [f"{block.stage} {block.option}" for block in blocks]
    figure = go.Figure()
    bars: dict[str, list[float | str | None]] = {"x": [], "y": []}
    for label, block in zip(labels, blocks, strict=True):
        bars["x"] += [block.first_loss, block.last_loss, None]
        bars["y"] += [label, label, None]
    figure.add_scatter(
        **bars, mode="lines", line={"color": style.FAINT, "width": 2}, hoverinfo="skip", showlegend=False
    )
    for name, key, marker in (
        ("first step", "first_loss", {"color": "white", "size": 8, "line": {"color": style.GREY, "width": 1.5}}),
        ("last step", "last_loss", {"color": style.BLUE, "size": 9}),
    ):
        values = [getattr(block, key) for block in blocks]
        figure.add_scatter(
            x=values,
            y=labels,
            mode="markers",
            name=name,
            marker=marker,
            hovertemplate="%{y}, " + name + ": %{x:.4f}<extra></extra>",
        )
    losses = [value for block in blocks for value in (block.first_loss, block.last_loss) if value]
    style.layout(figure, height=100 + 19 * len(labels))
    figure.update_layout(
        xaxis=style.axis("relative loss", losses),
        yaxis=style.axis("", [], type="category", autorange="reversed", tickfont={"size": 11}, dtick=1),
    )
    return figure
