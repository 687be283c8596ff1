"""How good a device profile is: parity with intervals, which stage options go with errors, an NPU profile's errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nas.plots import style
from nas.plots.format import milliseconds, percent

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from latency_predictors.judging import Point
    from latency_predictors.npu.profile import ErrorStatement
    from latency_predictors.stage_errors import OptionError

#: Short words for the parts of an AI Hub network's name.
_NAMES = {
    "controlnet_canny": "Canny",
    "controlnet": "ControlNet",
    "stable_diffusion_v1_5": "SD 1.5",
    "stable_diffusion_v2_1": "SD 2.1",
    "unet": "U-Net",
    "vae": "VAE",
    "precompiled_qnn_onnx": "ONNX",
    "qnn_context_binary": "binary",
}
#: Half-width of the shaded band around "predicted = measured".
BAND = 0.10


def parity(points: Sequence[Point]) -> go.Figure:
    """Measured against predicted latency of whole U-Nets, each with its 90 % interval, over a +-10 % band.

    Networks whose measurement lies outside of their interval have a colour and a symbol of their own.

    Raises:
        ValueError: no whole U-Net.
    """
    import plotly.graph_objects as go

    if not points:
        raise ValueError("no whole U-Net was measured")
    values = [v for p in points for v in (p.measured_ms, p.predicted_ms)]
    low, high = 0.9 * min(values), 1.1 * max(values)
    ends = [low / 2, high * 2]
    edge: dict[str, Any] = {"mode": "lines", "hoverinfo": "skip", "line": {"width": 0}}
    figure = go.Figure()
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
        x=ends, y=ends, mode="lines", line={"color": style.GREY, "width": 1}, hoverinfo="skip", showlegend=False
    )
    looks = ((True, "inside its 90 % interval", style.BLUE, "circle"), (False, "outside", style.VERMILLION, "diamond"))
    for covered, name, colour, symbol in looks:
        chosen = [p for p in points if p.is_covered == covered]
        figure.add_scatter(
            x=[p.measured_ms for p in chosen],
            y=[p.predicted_ms for p in chosen],
            mode="markers",
            name=f"{name} ({len(chosen)})",
            marker={"color": colour, "size": 8, "symbol": symbol},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [p.high_ms - p.predicted_ms for p in chosen],
                "arrayminus": [p.predicted_ms - p.low_ms for p in chosen],
                "thickness": 1,
                "width": 0,
                "color": colour,
            },
            text=[
                f"{p.candidate}<br>measured {milliseconds(p.measured_ms)}, predicted {milliseconds(p.predicted_ms)} "
                f"({milliseconds(p.low_ms)} to {milliseconds(p.high_ms)}): off by {percent(p.error_pct)}"
                for p in chosen
            ],
            hovertemplate="%{text}<extra></extra>",
            visible=bool(chosen),
        )
    style.layout(figure, height=460)
    shared = [low, high]
    own: dict[str, Any] = {} if style.is_log(shared) else {"range": shared}
    figure.update_layout(
        xaxis=style.axis("measured latency (ms)", shared, **own),
        yaxis=style.axis("predicted latency (ms)", shared, **own),
    )
    return figure


def stage_errors(effects: Sequence[OptionError]) -> go.Figure:
    """By how many per cent networks with each stage option are predicted higher or lower than the stage's average.

    With 95 % intervals; what all networks are off together is no part of it.

    Options whose interval leaves out zero are coloured.

    Raises:
        ValueError: no effect could be estimated.
    """
    import plotly.graph_objects as go

    if not effects:
        raise ValueError("too few whole U-Nets to tell the stages' errors apart")
    figure = go.Figure()
    looks = ((False, "uncertain, or under 2 %", style.FAINT), (True, "certain", style.ORANGE))
    for certain, name, colour in looks:
        chosen = [e for e in effects if e.is_certain == certain]
        figure.add_bar(
            x=[e.error_pct for e in chosen],
            y=[[e.stage for e in chosen], [e.option for e in chosen]],
            orientation="h",
            name=name,
            marker={"color": colour},
            error_x={
                "type": "data",
                "array": [1.96 * e.std_pct for e in chosen],
                "thickness": 1,
                "width": 3,
                "color": style.INK,
            },
            customdata=[[1.96 * e.std_pct, e.num] for e in chosen],
            hovertemplate="%{y}: %{x:.1f} ± %{customdata[0]:.1f} %, in %{customdata[1]} networks<extra></extra>",
            visible=bool(chosen),
        )
    reach = max(abs(e.error_pct) + 1.96 * e.std_pct for e in effects)
    style.layout(figure, height=110 + 19 * len(effects), barmode="overlay", bargap=0.25)
    # A trace a colour would put the certain options of all stages after the others: the order is the data's.
    order = [[e.stage for e in effects], [e.option for e in effects]]
    figure.add_bar(x=[0] * len(effects), y=order, orientation="h", showlegend=False, hoverinfo="skip")
    figure.data = (figure.data[-1], *figure.data[:-1])
    figure.update_layout(
        xaxis=style.axis(
            _title("too low  ←  per cent  →  too high"),
            [],
            range=[-1.05 * max(reach, 1.0), 1.05 * max(reach, 1.0)],
        ),
        yaxis=style.axis("", [], autorange="reversed", tickfont={"size": 11}, dividercolor=style.GRID),
    )
    figure.add_vline(x=0, line={"color": style.GREY, "width": 1})
    return figure


def npu_errors(errors: ErrorStatement) -> go.Figure:
    """Prediction minus measurement in per cent, of the networks that an NPU profile is held against.

    Raises:
        ValueError: the statement is empty.
    """
    import plotly.graph_objects as go

    kinds = (
        ("no diffusion model fitted", errors.without_diffusion, style.BLUE, "circle"),
        ("this model not fitted", errors.leave_one_model_out, style.ORANGE, "diamond"),
    )
    networks = list(dict.fromkeys(_short(e.network) for _, found, _, _ in kinds for e in found))
    if not networks:
        raise ValueError("the profile states no error")
    figure = go.Figure()
    for name, found, colour, symbol in kinds:
        figure.add_scatter(
            x=[e.error_pct for e in found],
            y=[_short(e.network) for e in found],
            text=[e.network for e in found],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9, "symbol": symbol},
            hovertemplate="%{text}: %{x:+d} %<extra>" + name + "</extra>",
            visible=bool(found),
        )
    reach = 1.1 * max(10, *(abs(e.error_pct) for _, found, _, _ in kinds for e in found))
    style.layout(figure, height=110 + 26 * len(networks))
    figure.add_vrect(x0=-10, x1=10, fillcolor="rgba(0,114,178,0.10)", line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": style.GREY, "width": 1})
    figure.update_layout(
        xaxis=style.axis(_title("prediction off by (per cent)"), [], range=[-reach, reach]),
        yaxis=style.axis("", [], type="category", autorange="reversed", dtick=1, tickfont={"size": 11}),
    )
    return figure


def _title(text: str) -> str:
    """An axis title that a phone has room for beside long tick labels."""
    return f'<span style="font-size:13px">{text}</span>'


def _short(network: str) -> str:
    """`stable_diffusion_v1_5/vae/qnn_context_binary` as `SD 1.5 VAE, binary`: a phone has no room for more."""
    model, component, path = [*network.split("/"), "", ""][:3]
    words = [_NAMES.get(part, part.replace("_", " ")) for part in (model, component) if part]
    return ", ".join([" ".join(words), *([_NAMES.get(path, path.replace("_", " "))] if path else [])])
