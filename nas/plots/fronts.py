"""The three-objective front, its projections, and the hypervolume over evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.plots import baselines, style
from nas.plots import data as data_of
from nas.plots.data import FrontData, front_data
from nas.run_data import OBJECTIVES, Candidate, RunData

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: (x, y) of the pairwise projections.
PAIRS = (("latency_ms", "latent_error"), ("num_params", "latent_error"), ("num_params", "latency_ms"))


def front_3d(run: RunData) -> go.Figure:
    """Latent error, predicted latency and parameters of the finished candidates; dominated ones faint.

    Raises:
        ValueError: no finished candidate.
    """
    import plotly.graph_objects as go

    data = _needed(run)
    figure = go.Figure()
    for name, points, marker in _groups(data, sizes=(3, 5, 8)):
        x, y, z = (_values(points, key) for key in ("latency_ms", "num_params", "latent_error"))
        figure.add_scatter3d(x=x, y=y, z=z, name=name, marker=marker, mode="markers", **_hover(points, name))
    baselines.add_finished(figure, run, ("latency_ms", "num_params", "latent_error"))
    _add_stems(figure, run, data)
    axes = {
        place: style.axis(title, _range(run, key), write, backgroundcolor="white", showspikes=False)
        for place, key in (("xaxis", "latency_ms"), ("yaxis", "num_params"), ("zaxis", "latent_error"))
        for title, write in [style.AXES[key]]
    }
    for look in axes.values():
        look["title"] = {"text": look["title"]["text"], "font": {"size": 12}}
        look["tickfont"] = {"size": 11}
        # Three-dimensional axes know neither of these.
        look.pop("automargin")
    camera = {"eye": {"x": 1.45, "y": 1.3, "z": 0.55}, "center": {"x": 0, "y": 0, "z": -0.1}}
    style.layout(
        figure,
        height=560,
        margin={"l": 0, "r": 0, "t": 8, "b": 0},
        scene=axes | {"camera": camera, "aspectmode": "cube"},
    )
    return figure


def front_pair(run: RunData, x: str, y: str, legend: bool = True) -> go.Figure:
    """Projection of the front on two of the objectives; the front is the three-objective one, not the pair's own.

    Raises:
        ValueError: no finished candidate, or an unknown objective.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    _add_pair(figure, _needed(run), x, y)
    baselines.add_finished(figure, run, (x, y))
    style.layout(figure, height=360, showlegend=legend)
    figure.update_layout(xaxis=_axis(run, x), yaxis=_axis(run, y))
    return figure


def front_pairs(run: RunData) -> go.Figure:
    """The three projections side by side, for a wide page or a picture.

    Raises:
        ValueError: no finished candidate.
    """
    from plotly.subplots import make_subplots

    data = _needed(run)
    figure = make_subplots(rows=1, cols=len(PAIRS), horizontal_spacing=0.085)
    for column, (x, y) in enumerate(PAIRS, start=1):
        _add_pair(figure, data, x, y, legend=column == 1, row=1, col=column)
        baselines.add_finished(figure, run, (x, y), legend=column == 1, row=1, col=column)
        figure.update_xaxes(_axis(run, x), row=1, col=column)
        figure.update_yaxes(_axis(run, y), row=1, col=column)
    return style.layout(figure, height=420, width=1280, margin={"l": 64, "r": 20, "t": 48, "b": 56})


def hypervolume_history(run: RunData) -> go.Figure:
    """Hypervolume after each finished evaluation; of many, where it changes.

    Raises:
        ValueError: no finished candidate.
    """
    import plotly.graph_objects as go

    _needed(run)
    data = data_of.hypervolume_history(run)
    figure = go.Figure()
    text = [
        f"after {n:,}: {value:.4f}<br>{name}"
        for n, value, name in zip(data.evaluations, data.values, data.candidate_ids, strict=True)
    ]
    figure.add_scatter(
        x=data.evaluations,
        y=data.values,
        mode="lines+markers" if len(data.values) <= 200 else "lines",
        line={"color": style.BLUE, "shape": "hv", "width": 2},
        marker={"size": 5},
        text=text,
        hovertemplate="%{text}<extra></extra>",
    )
    style.layout(figure, height=320, showlegend=False)
    figure.update_layout(
        xaxis=style.axis("finished evaluations", [], rangemode="tozero"),
        yaxis=style.axis("hypervolume (share of the box)", [], rangemode="tozero"),
    )
    return figure


def _needed(run: RunData) -> FrontData:
    if not run.done:
        raise ValueError("no finished candidate to draw")
    return front_data(run)


def _groups(data: FrontData, sizes: tuple[int, int, int]) -> list[tuple[str, Sequence[Candidate], dict[str, Any]]]:
    """(legend name, points, marker) of the dominated, the front, and each pick on top."""
    picked = {c.candidate_id for c in data.picks.values()}
    dominated, front = ([c for c in group if c.candidate_id not in picked] for group in (data.dominated, data.front))
    groups: list[tuple[str, Sequence[Candidate], dict[str, Any]]] = [
        ("dominated", dominated, {"color": style.FAINT, "size": sizes[0], "opacity": 0.7}),
        ("front", front, {"color": style.BLUE, "size": sizes[1]}),
    ]
    for name, (color, symbol) in style.pick_marks(list(data.picks)).items():
        # An open symbol is drawn by its line.
        line = {"color": color, "width": 2.5} if symbol.endswith("-open") else {"color": "white", "width": 1}
        groups.append((name, [data.picks[name]], {"color": color, "symbol": symbol, "size": sizes[2], "line": line}))
    return [group for group in groups if group[1]]


def _add_pair(figure: go.Figure, data: FrontData, x: str, y: str, legend: bool = True, **place: int) -> None:
    for name, points, marker in _groups(data, sizes=(6, 8, 13)):
        figure.add_scatter(
            x=_values(points, x),
            y=_values(points, y),
            mode="markers",
            name=name,
            legendgroup=name,
            showlegend=legend,
            marker=marker,
            **_hover(points, name),
            **place,
        )


def _add_stems(figure: go.Figure, run: RunData, data: FrontData) -> None:
    """Thin lines from the front down to the floor: without them a still picture of a 3-D chart has no depth."""
    floor = style.floor(_range(run, "latent_error"))
    coordinates: dict[str, list[float | None]] = {"x": [], "y": [], "z": []}
    for c in data.front:
        (x,), (y,), (z,) = (_values([c], key) for key in ("latency_ms", "num_params", "latent_error"))
        coordinates["x"] += [x, x, None]
        coordinates["y"] += [y, y, None]
        coordinates["z"] += [z, floor, None]
    figure.add_scatter3d(
        **coordinates, mode="lines", line={"color": style.FAINT, "width": 2}, hoverinfo="skip", showlegend=False
    )


def _hover(points: Sequence[Candidate], name: str) -> dict[str, Any]:
    kind = None if name in ("front", "dominated") else name
    return {"text": [style.hover(c, kind) for c in points], "hovertemplate": "%{text}<extra></extra>"}


def _values(points: Sequence[Candidate], key: str) -> list[float]:
    if key not in OBJECTIVES:
        raise ValueError(f"no objective {key!r}: one of {', '.join(OBJECTIVES)}")
    return style.log_floor([float(getattr(c, key)) for c in points])


def _axis(run: RunData, key: str) -> dict[str, Any]:
    title, write = style.AXES[key]
    return style.axis(title, _range(run, key), write)


def _range(run: RunData, key: str) -> list[float]:
    return [*_values(run.done, key), *baselines.values_on_front(run, key)]
