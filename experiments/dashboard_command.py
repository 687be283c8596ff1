"""`nanosd dashboard`: a run, or several, on a local web page that follows them."""

import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.output import say
from experiments.runs import find_run
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette

PORT = 8600
HOST = "127.0.0.1"


def dashboard(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, its name under runs/, or a folder of runs.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: a free one.")] = PORT,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = False,
) -> None:
    """Show a run on a local web page (127.0.0.1) that follows it: front, workers, what is tried and why, failures."""
    folder = _folder(run)
    app = _app(folder)
    listening = _listen(port)
    url = f"http://{HOST}:{listening.getsockname()[1]}/"
    print(f"{url}  (Ctrl-C ends it; the run goes on)", flush=True)
    if open_:
        import webbrowser

        webbrowser.open(url)
    serve(app, listening)


def serve(app: "Starlette", listening: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    import uvicorn

    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    try:
        uvicorn.Server(settings).run(sockets=[listening])
    except KeyboardInterrupt:
        say("dashboard ended; the run is as it was")


def _folder(text: str) -> Path:
    path = Path(text)
    return path if path.is_dir() and not (path / "config.yaml").is_file() else find_run(text)


def _app(folder: Path) -> "Starlette":
    from importlib.util import find_spec

    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"nanosd dashboard needs {' and '.join(missing)}: pip install 'nanosd-nas[dashboard]'")
    from nas.live.app import make_app

    return make_app(folder)


def _listen(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # from now on a browser waits, instead of being refused
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            why = "taken by another program (perhaps another dashboard)"
        else:
            why = f"not to be had ({error.strerror})"
        raise UserError(f"--port {port}: {why}; give another one, or 0 for a free one") from None
    return listening
