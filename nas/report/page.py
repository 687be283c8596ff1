"""The report's page: style, and the few HTML pieces it is made of. Every text that comes from a run is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

#: Images are shown this wide at most, so larger ones (512 pixels for SD 1.5) are embedded at twice it.
MAX_IMAGE_PIXELS = 256

CSS = """
:root{--ink:#1b1f24;--soft:#57606a;--line:#dfe3e8;--pale:#f6f8fa;--blue:#0072B2}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1120px;margin:0 auto;padding:28px 24px 64px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em}
h2{font-size:1.3rem;line-height:1.3;margin:0 0 .3rem}
h3{font-size:1rem;margin:1rem 0 .2rem}
section{margin-top:2.6rem;padding-top:1.3rem;border-top:1px solid var(--line)}
p{margin:.2rem 0 .8rem;max-width:54rem}
.lead{color:var(--soft)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:1.2rem 0 0}
.facts div{background:var(--pale);border-radius:8px;padding:10px 14px}
.facts dt{font-size:.8rem;color:var(--soft)}
.facts dd{margin:0;font-size:1.15rem;font-weight:600;overflow-wrap:anywhere}
.facts .long{font-size:.95rem;line-height:1.35}
.facts small{display:block;font-weight:400;font-size:.8rem;color:var(--soft)}
nav{font-size:.9rem;margin-top:1.2rem;line-height:1.9}
nav a{margin-right:1rem;white-space:nowrap}
a{color:var(--blue)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
.wide>table:not(.images){min-width:100%}
th,td{padding:7px 12px 7px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;font-size:.8rem;color:var(--soft);line-height:1.3;vertical-align:bottom}
td.n,th.n{text-align:right;white-space:nowrap}
td small{display:block;font-weight:400;color:var(--soft);font-size:.78rem}
.words{display:grid;grid-template-columns:repeat(4,auto);gap:0 .7rem;justify-content:start;font-size:.78rem;line-height:1.45}
.words b{color:var(--soft);font-weight:400;margin-right:.25rem}
.words span{white-space:nowrap}
code,pre{font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--pale);padding:14px;border-radius:8px;overflow-x:auto;margin:.5rem 0}
code{overflow-wrap:anywhere}
td code{font-size:.78rem}
.cards td:first-child{min-width:7.5rem}
.grid{display:grid;gap:18px}
.two{grid-template-columns:1fr 1fr}
.three{grid-template-columns:1fr 1fr 1fr}
.grid>*{min-width:0}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.88rem;margin:.3rem 0}
.key i{font-style:normal;margin-right:.35rem}
.missing{background:#fff8e6;border-left:4px solid #E69F00;padding:10px 14px;border-radius:4px;max-width:46rem}
.images td,.images th{border:0;padding:4px 10px 4px 0;text-align:left;vertical-align:middle}
.images th{font-size:.82rem;color:var(--ink)}
.images thead th{color:var(--soft);font-weight:400;max-width:150px;vertical-align:bottom;font-size:.78rem}
.images tbody th{position:sticky;left:0;background:#fff;z-index:1;min-width:76px}
.images tbody th small{display:block;font-weight:400;color:var(--soft)}
.images img{display:block;width:150px;height:auto;border-radius:4px;background:var(--pale)}
details{margin:.8rem 0}
summary{cursor:pointer;color:var(--blue)}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media(max-width:920px){.two,.three{grid-template-columns:1fr}}
.tall,.tall>div{height:560px}
@media(max-width:760px){
.tall,.tall>div{height:400px}
main{padding:18px 14px 48px}
h1{font-size:1.5rem}
.facts{grid-template-columns:1fr 1fr}
.cards thead{display:none}
.cards,.cards tbody{display:block}
.cards tr{display:block;border:1px solid var(--line);border-radius:8px;padding:6px 12px;margin-bottom:10px}
.cards td,.cards td.n{display:flex;justify-content:space-between;gap:1rem;text-align:right;padding:4px 0;border:0;white-space:normal}
.cards td::before{content:attr(data-label);color:var(--soft);text-align:left;flex:none;max-width:55%}
.cards td:first-child{font-size:1.05rem;font-weight:600}
.cards td:first-child::before{content:none}
.cards td:empty{display:none}
.cards .words{text-align:left;grid-template-columns:auto auto}
.cards td small{display:inline;margin-left:.4rem}
.images img{width:96px}
.images thead th{max-width:96px}
}
@media print{section{break-inside:avoid}nav,details{display:none}}
"""


def text(value: object) -> str:
    """Escape for HTML."""
    return html.escape(str(value))


def section(anchor: str, title: str, lead: str, *parts: str) -> str:
    """A section with its one-sentence explanation (`lead` is HTML)."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{anchor}"><h2>{text(title)}</h2><p class="lead">{lead}</p>\n{body}</section>'


def missing(sentence: str) -> str:
    """What stands in place of a part that the run does not have."""
    return f'<p class="missing">{text(sentence)}</p>'


def facts(rows: Iterable[tuple[str, str, str]]) -> str:
    """Tiles of (label, value, small print)."""
    tiles = ""
    for label, value, small in rows:
        # A processor's name is a sentence.
        kind = ' class="long"' if len(value) > 14 else ""
        below = f"<small>{text(small)}</small>" if small else ""
        tiles += f"<div><dt>{text(label)}</dt><dd{kind}>{text(value)}{below}</dd></div>"
    return f'<dl class="facts">{tiles}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool], cards: bool = False) -> str:
    """A table; cells are HTML. With `cards`, a narrow screen shows each row as a card."""
    kinds = ['class="n"' if number else "" for number in numeric]
    top = "".join(f"<th {kind}>{text(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    lines = "".join(
        "<tr>"
        + "".join(f'<td {kind} data-label="{text(name)}">{cell}</td>' for name, kind, cell in zip(head, kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table class="{"cards" if cards else ""}"><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """A two-column table of facts."""
    lines = "".join(f"<tr><td>{text(key)}</td><td><code>{text(value)}</code></td></tr>" for key, value in rows)
    return f"<table><tbody>{lines}</tbody></table>"


def words(options: Mapping[str, str]) -> str:
    """Words per stage as a small grid."""
    cells = "".join(f"<span><b>{text(s)}</b>{text('dropped' if word == 'none' else word)}</span>" for s, word in options.items())
    return f'<div class="words">{cells}</div>'


def key(rows: Iterable[tuple[str, str, str]]) -> str:
    """A legend of (glyph, colour, label) shared by several figures."""
    return '<div class="key">' + "".join(f'<span><i style="color:{c}">{g}</i>{text(n)}</span>' for g, c, n in rows) + "</div>"


def details(summary: str, body: str) -> str:
    """A part that opens on demand."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def side_by_side(*bodies: str) -> str:
    """Two or three parts next to each other, below each other on a narrow screen."""
    return f'<div class="grid {"two" if len(bodies) == 2 else "three"}">' + "".join(f"<div>{body}</div>" for body in bodies) + "</div>"


def figure(fig: go.Figure, name: str, on_phone: str | None = None) -> str:
    """A figure as HTML without plotly.js, which the page holds once.

    `name` names the element; `on_phone` is a JavaScript object of layout changes for a narrow screen.
    """
    script = f"if(innerWidth<600)Plotly.relayout('figure-{name}',{on_phone});" if on_phone else None
    config = {"responsive": True, "displaylogo": False, "displayModeBar": False, "showTips": False}
    body = fig.to_html(full_html=False, include_plotlyjs=False, config=config, div_id=f"figure-{name}", post_script=script)
    return str(body)


def image(path: Path, label: str) -> str:
    """An image inline, as PNG of at most MAX_IMAGE_PIXELS a side."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()
        small = picture.convert("RGB")
    small.thumbnail((MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{text(label)}" width="{small.width}" height="{small.height}">'


def page(title: str, body: str) -> str:
    """The whole offline page; plotly.js stands in it exactly once."""
    from plotly.offline import get_plotlyjs

    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{text(title)}</title><link rel="icon" href="data:,"><style>{CSS}</style>
<script>{get_plotlyjs()}</script></head>
<body><main>
{body}
</main></body></html>
"""
