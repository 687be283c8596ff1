"""The live page's web application: GET only, to this machine only, nothing beyond its own pages.

Needs the extra `dashboard` (Starlette). Host names other than `localhost` and `127.0.0.1` are refused, so that a
foreign page cannot reach it by a name of its own that leads here (DNS rebinding); no path of a request names a file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.live.overview import RunList
from nas.live.run import LiveRun
from nas.live.view import RunView
from nas.report import page
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOSTS = ("localhost", "127.0.0.1")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
# plotly.js does not change while the server runs.
_STATIC = {**_HEADERS, "Cache-Control": "max-age=3600"}

#: (anchor, heading, lead, ids of the figures, id of the text) of the page's sections.
_SECTIONS = (
    (
        "front",
        "The front",
        "Finished candidates: latent error against predicted latency, coloured by parameters. Large: those that no "
        "other beats in error, latency and parameters at once.",
        ("front",),
        None,
    ),
    (
        "workers",
        "Workers",
        "What each evaluates now.",
        (),
        "workers",
    ),
    (
        "hypervolume",
        "Hypervolume",
        "Share of the box between the ideal and the worst that the front dominates: over evaluations and over time.",
        ("evaluations", "time"),
        None,
    ),
    (
        "proposals",
        "What is tried, and why",
        "The last proposals of the sampler, the latest first: the hypervolume that it expected to gain, its prediction "
        "with a 90 % interval, and what was measured.",
        ("calibration", "gain"),
        "proposals",
    ),
    ("failures", "Failures", "Candidates without a result, by reason.", (), "failures"),
)


class _Lazy:
    """One run, opened at the first request, read by one request at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._view: RunView | None = None

    def data(self, known: str) -> dict[str, Any]:
        with self._lock:
            if self._view is None:
                self._view = RunView(LiveRun(self._path))
            return self._view.data(known)


def make_app(folder: Path) -> Starlette:
    """The application for one run, or for a folder of runs.

    Args:
        folder: a run's folder, or one whose folders are runs; new ones are seen as they come.

    Raises:
        UserError: neither.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def json(make: Callable[[], Mapping[str, Any]]) -> Response:
        try:
            return JSONResponse(make(), headers=_HEADERS)
        except UserError as error:
            return JSONResponse({"error": str(error)}, headers=_HEADERS)

    def html(text: str) -> Response:
        return Response(text, media_type="text/html", headers=_HEADERS)

    def static(text: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response(text, media_type=kind, headers=_STATIC)

    def not_found(request: Request, error: Exception) -> Response:
        return Response("not found\n", 404, media_type="text/plain", headers=_HEADERS)

    package = __package__ or ""
    css = _resource("nas.report", "report.css") + _resource(package, "live.css")
    routes = [
        Route("/plotly.min.js", lambda request: Response(_plotly(), media_type="text/javascript", headers=_STATIC)),
        Route("/live.js", static(_resource(package, "live.js"), "text/javascript")),
        Route(
            "/style.css",
            static(css, "text/css"),
        ),
    ]
    if (folder / "config.yaml").is_file():
        only = _Lazy(folder)
        title = folder.resolve().name
        routes += [
            Route("/", lambda request: html(run_page(title))),
            Route("/data.json", lambda request: json(lambda: only.data(request.query_params.get("known", "")))),
        ]
    else:
        runs = RunList(folder)
        opened: dict[str, _Lazy] = {}

        def run_of(request: Request) -> _Lazy | None:
            name = request.path_params["name"]
            if name not in runs.paths():  # the folders that there are; a request never makes a path
                return None
            return opened.setdefault(name, _Lazy(runs.paths()[name]))

        def one_page(request: Request) -> Response:
            if run_of(request) is None:
                return not_found(request, LookupError())
            return html(run_page(request.path_params["name"], back=True))

        def one_data(request: Request) -> Response:
            run = run_of(request)
            if run is None:
                return not_found(request, LookupError())
            return json(lambda: run.data(request.query_params.get("known", "")))

        routes += [
            Route("/", lambda request: html(list_page(folder))),
            Route("/data.json", lambda request: json(lambda: runs.data(request.query_params.get("known", "")))),
            Route("/run/{name}/", one_page),
            Route("/run/{name}/data.json", one_data),
        ]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    return Starlette(routes=routes, middleware=[guard], exception_handlers={404: not_found})


def run_page(title: str, back: bool = False) -> str:
    """The page of a run, whose script fills it."""
    body = '<nav><a href="/">all runs</a></nav>' if back else ""
    body += '<div id="problem" class="missing" hidden></div><div id="text-head"><h1>' + page.text(title) + "</h1></div>"
    for anchor, heading, lead, figures, text in _SECTIONS:
        drawn = "".join(f'<div class="figure" id="figure-{name}" hidden></div>' for name in figures)
        kind = "grid two" if len(figures) > 1 else ""
        parts = [f'<div id="text-{text}"></div>' if text else "", f'<div class="{kind}">{drawn}</div>' if drawn else ""]
        body += page.section(anchor, heading, page.text(lead), *parts)
    return _document(title, body)


def list_page(folder: Path) -> str:
    """The page of a folder of runs, whose script fills it."""
    body = f'<div id="problem" class="missing" hidden></div><h1>Runs in {page.text(folder.name or folder)}</h1>'
    body += '<div id="text-runs"></div>'
    drawn = '<div class="figure" id="figure-fronts" hidden></div>'
    lead = "Latent error against predicted latency, each run's own front."
    body += page.section("fronts", "Their fronts", page.text(lead), drawn)
    return _document("runs", body)


def _document(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{page.text(title)}</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css">
<script src="/plotly.min.js" defer></script><script src="/live.js" defer></script></head>
<body><main>
{body}
<footer><span id="updated">Waiting for the first figures.</span></footer>
</main></body></html>
"""


def _resource(package: str, name: str) -> str:
    return (resources.files(package) / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
