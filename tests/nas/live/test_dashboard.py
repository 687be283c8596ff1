"""The dashboard over real sockets: what it serves, to whom, and that it follows a run."""

from __future__ import annotations

import http.client
import io
import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pytest

from experiments.dashboard_command import _app, _listen
from nas.live.app import make_app
from nas.run.progress_file import ProgressFile
from nas.search.presence import Presence
from search_spaces.errors import UserError
from tests.nas.live.made_up_run import MadeUpRun

pytest.importorskip("starlette", reason="the extra 'dashboard' is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra 'dashboard' is not installed")


HOSTILE = "<img src=x onerror=alert(1)>"


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """The dashboard of a folder; yields its port."""
    listening = _listen(0)
    server = uvicorn.Server(uvicorn.Config(make_app(folder), log_level="error", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()


def ask(port: int, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of one request; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> MadeUpRun:
    """A run with seven finished candidates."""
    run = MadeUpRun(tmp_path_factory.mktemp("runs") / "one")
    run.evaluate(7)
    return run


@pytest.fixture(scope="module")
def port(run: MadeUpRun) -> Iterator[int]:
    with served(run.directory.path) as port:
        yield port


def test_its_own_pages_and_nothing_else(port: int, run: MadeUpRun) -> None:
    from plotly.offline import get_plotlyjs

    status, page, headers = ask(port, "/")
    assert status == 200 and "<script src=" in page and "<script>" not in page and "://" not in page
    assert "script-src 'self'" in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert ask(port, "/plotly.min.js")[1] == get_plotlyjs()  # from the package: no network is needed
    for path, kind in (("/style.css", "text/css"), ("/live.js", "text/javascript"), ("/data.json", "application/json")):
        status, body, headers = ask(port, path)
        assert status == 200 and body and headers["content-type"].startswith(kind)
    for path in (
        "/config.yaml",
        "/store/candidates.jsonl",
        "/../config.yaml",
        "/%2e%2e/config.yaml",
        "/run/one/",
        "//x",
    ):
        assert ask(port, path)[0] == 404, path
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(port, "/data.json", method)[0] == 405


def test_only_this_machines_names(port: int) -> None:
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "[::1]"):
        status, body, _ = ask(port, "/data.json", host=host)
        assert status == 400 and "made-up" not in body, host
    assert _bound_to(port) == "127.0.0.1"


def _bound_to(port: int) -> str:
    import psutil

    (address,) = {
        c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port
    }
    return str(address)


def test_the_page_follows_the_run(port: int, run: MadeUpRun) -> None:
    before = json.loads(ask(port, "/data.json")[1])
    assert set(before["figures"]) == {"front", "evaluations", "time", "calibration", "gain"}
    assert before["state"] == "stopped" and f"nanosd resume {run.directory.path}" in before["html"]["head"]
    same = json.loads(ask(port, f"/data.json?known={before['version']}")[1])
    assert same["figures"] is None and same["version"] == before["version"]
    points = sum(len(trace["x"]) for trace in before["figures"]["front"]["data"])
    assert points == 7 and "7 of 12" in before["html"]["head"]
    record = run.evaluate(1)[0]
    after = json.loads(ask(port, f"/data.json?known={before['version']}")[1])
    assert sum(len(trace["x"]) for trace in after["figures"]["front"]["data"]) == 8
    assert "8 of 12" in after["html"]["head"] and record.candidate in after["html"]["proposals"]
    values = _numbers(after["figures"]["evaluations"]["data"][0]["y"])
    assert values == sorted(values)
    number, planned = run.propose()
    Presence(run.store.folder).evaluating(planned)
    with run.directory.lock(), ProgressFile(run.directory.progress).over():
        flying = json.loads(ask(port, "/data.json")[1])
        assert flying["state"] == "running" and planned.candidate in flying["html"]["workers"]
        assert len(flying["figures"]["front"]["data"]) == 3 and "under evaluation" in flying["html"]["proposals"]
    run.end(number, planned, reason="latent_error is nan")
    ended = json.loads(ask(port, "/data.json")[1])
    assert ended["state"] == "finished" and "latent_error is nan" in ended["html"]["failures"]


def _numbers(column: object) -> list[float]:
    """plotly writes arrays as base64 where it can."""
    import base64

    import numpy as np

    if isinstance(column, dict):
        return np.frombuffer(base64.b64decode(column["bdata"]), column["dtype"]).astype(float).tolist()
    assert isinstance(column, list)
    return column


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag}.{name}" for name, _ in attrs)}


def test_hostile_words_stay_words(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / f"a{HOSTILE}".replace("/", ""))
    run.evaluate(6)
    for reason in (None, f'"{HOSTILE}'):
        number, planned = run.propose()
        hostile = planned.model_copy(update={"candidate": f"{HOSTILE}{reason}", "options": {HOSTILE: HOSTILE}})
        run.study._storage.set_trial_user_attr(number, "candidate", hostile.candidate)
        run.end(number, hostile, reason)
    number, planned = run.propose()
    hostile = planned.model_copy(update={"candidate": HOSTILE, "options": {HOSTILE: HOSTILE}})
    file = ProgressFile(run.directory.progress)
    Presence(run.store.folder).evaluating(hostile)
    with pytest.raises(UserError), run.directory.lock(), file.over():
        with served(run.directory.path) as port:
            page, data = ask(port, "/")[1], json.loads(ask(port, "/data.json")[1])
        raise UserError(HOSTILE)
    with served(run.directory.path) as port:
        data["html"]["stopped"] = json.loads(ask(port, "/data.json")[1])["html"]["head"]
    for name, piece in {"page": page, **data["html"]}.items():
        found = Tags(piece).found
        assert not found & {"img", "img.src", "img.onerror"}, name
        assert "&lt;img" in piece or name == "head", name  # it was there
    assert "<img" not in json.dumps(data["figures"]) and "&lt;img" in json.dumps(data["figures"])
    with served(tmp_path) as port:
        data = json.loads(ask(port, "/data.json")[1])
        assert "img" not in Tags(data["html"]["runs"]).found and "<img" not in json.dumps(data["figures"])


def test_a_folder_of_runs(tmp_path: Path) -> None:
    first, second = MadeUpRun(tmp_path / "first"), MadeUpRun(tmp_path / "a b#1")
    first.evaluate(3)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.yaml").write_text("")
    with served(tmp_path) as port:
        data = json.loads(ask(port, "/data.json")[1])
        rows = data["html"]["runs"]
        assert "3 of 12" in rows and "0 of 12" in rows and "config.yaml is empty" in rows
        assert [trace["name"] for trace in data["figures"]["fronts"]["data"]] == ["first"]
        for name in ("first", "a b#1"):
            address = f"/run/{quote(name, safe='')}/"
            assert f'href="{address}"' in rows and ask(port, address)[0] == 200
            assert json.loads(ask(port, f"{address}data.json")[1])["state"] == "stopped"
        assert "error" in json.loads(ask(port, "/run/damaged/data.json")[1])
        for name in ("none", "..", "%2e%2e", "..%2f" + tmp_path.name, "%2fetc"):
            assert ask(port, f"/run/{name}/")[0] == ask(port, f"/run/{name}/data.json")[0] == 404, name
        third = MadeUpRun(tmp_path / "third")
        third.evaluate(1)
        second.evaluate(2)
        data = json.loads(ask(port, "/data.json")[1])
        assert [trace["name"] for trace in data["figures"]["fronts"]["data"]] == ["a b#1", "first", "third"]


def test_a_damaged_run_is_said_on_its_page(tmp_path: Path) -> None:
    run = MadeUpRun(tmp_path / "run")
    run.evaluate(1)
    with open(run.store.path, "a") as file:
        file.write("{}\n")
    with served(run.directory.path) as port:
        assert "record 2 is damaged" in json.loads(ask(port, "/data.json")[1])["error"]
        lines = run.store.path.read_text().splitlines(keepends=True)
        run.store.path.write_text("".join(lines[:-1]))  # mended while the page is open
        assert "1 of 12" in json.loads(ask(port, "/data.json")[1])["html"]["head"]


def test_what_the_command_refuses(tmp_path: Path, run: MadeUpRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {number}: taken .* 0 for a free one"):
            _listen(number)
    with pytest.raises(UserError, match="neither a run nor a folder of runs"):
        make_app(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs starlette and uvicorn: pip install 'nanosd-nas\[dashboard\]'"):
        _app(run.directory.path)


@pytest.mark.slow
def test_optuna_dashboard_opens_the_study(run: MadeUpRun) -> None:
    import optuna

    dashboard = pytest.importorskip("optuna_dashboard", reason="the extra 'dashboard' is not installed")
    backend = optuna.storages.journal.JournalFileBackend(str(run.directory.path / "study.log"))
    app = dashboard.wsgi(optuna.storages.JournalStorage(backend))

    def get(path: str, query: str = "") -> dict[str, object]:
        said: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
        environ |= {"wsgi.url_scheme": "http", "wsgi.errors": sys.stderr, "SERVER_NAME": "x", "SERVER_PORT": "80"}
        body = b"".join(app(environ, lambda status, *rest: said.append(status)))
        assert said[0].startswith("200"), said
        return dict(json.loads(body))

    (study,) = get("/api/studies")["study_summaries"]  # type: ignore[misc]
    detail = get(f"/api/studies/{study['study_id']}", "after=0")
    assert detail["objective_names"] == ["latent_error", "latency_ms", "num_params"]
    done = [trial for trial in detail["trials"] if trial["state"] == "Complete"]  # type: ignore[attr-defined]
    records = [record for record in run.store.records() if record.outcome == "done"]
    assert [trial["values"][0] for trial in done] == [record.metrics["latent_error"] for record in records]
    assert "proposal" in {attr["key"] for attr in done[-1]["user_attrs"]}
