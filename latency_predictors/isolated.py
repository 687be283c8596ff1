"""Calls a function in a process of its own, with a time and a memory limit: a crash or a hang costs only itself.

Compilers and runtimes of devices are other people's native code: they abort, run out of memory and
hang, and take the process with them. Arguments and results cross as JSON files.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from latency_predictors.processes import end_with_parent, how_it_ended, is_out_of_memory, limit_memory, one_line
from search_spaces.errors import UserError

Status = Literal["ok", "refused", "failed", "crashed", "timed_out"]

_REQUEST, _ANSWER, _STDERR = "request.json", "answer.json", "stderr.txt"
_POLL_S = 0.02
_ORPHAN_GRACE_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a call in its own process ended.

    status: "ok"; "refused" (the function raised UserError); "failed" (any other exception);
        "crashed" (a signal, or an exit without an answer); "timed_out".
    value: what the function returned, as JSON gives it back; None unless "ok".
    reason: one line; None if "ok".
    seconds: wall time, process start included.
    peak_bytes: the process's largest resident memory, looked at every 20 ms where /proc has it.
    """

    status: Status
    value: Any
    reason: str | None
    seconds: float
    peak_bytes: int


def call(
    target: str, arguments: Mapping[str, Any], *, timeout_s: float, memory_limit_bytes: int | None = None
) -> Outcome:
    """Calls `target` ("package.module:function") with keyword `arguments` in a new Python process.

    Parameters
    ----------
    arguments: JSON-ready values.
    timeout_s: wall time after which the process and its children are killed. On Linux the process ends
        with this one, elsewhere a little after this time, should this one be killed meanwhile.
    memory_limit_bytes: most private memory that the process may allocate; what asks for more fails.
        Not enforced where the system has no such limit (macOS).
    """
    assert timeout_s > 0
    with tempfile.TemporaryDirectory(prefix="isolated-") as scratch:
        folder = Path(scratch)
        request = {
            "target": target,
            "arguments": dict(arguments),
            "timeout_s": timeout_s + _ORPHAN_GRACE_S,
            "memory_limit_bytes": memory_limit_bytes,
        }
        (folder / _REQUEST).write_text(json.dumps(request, allow_nan=False), encoding="utf-8")
        begin = time.perf_counter()
        with (folder / _STDERR).open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "latency_predictors.isolated", scratch],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                # A group of its own, so that the kill reaches what the function starts.
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
            try:
                timed_out, peak_bytes = _wait(process, begin + timeout_s)
            except BaseException:
                _kill(process)
                process.wait()
                raise
        seconds = time.perf_counter() - begin
        if timed_out or process.returncode == -signal.SIGALRM:
            return Outcome("timed_out", None, f"stopped after {timeout_s:g} s", seconds, peak_bytes)
        answer = _read_answer(folder)
        if answer is None:
            return Outcome("crashed", None, how_it_ended(process.returncode, folder / _STDERR), seconds, peak_bytes)
        return Outcome(answer["status"], answer["value"], answer["reason"], seconds, peak_bytes)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> tuple[bool, int]:
    """Waits until the process ends or is killed at the deadline: whether it was killed, and its peak memory."""
    timed_out, peak_bytes = False, 0
    while True:
        peak_bytes = _peak_bytes(process.pid) or peak_bytes
        # wait4 rather than Popen.wait: only it tells the memory of this one child.
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return timed_out, peak_bytes or usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        if not timed_out and time.perf_counter() > deadline:
            timed_out = True
            _kill(process)
        time.sleep(_POLL_S)


def _peak_bytes(pid: int) -> int | None:
    """Largest resident memory of a running process so far, where the system has it in /proc.

    On Linux the usage that wait4 gives begins with the parent's memory, of which the child is a copy until it starts
    its own program; this one begins anew there.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1]) * 1024 for line in lines if line and line[0] == "VmHWM:"), None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()  # it has not become the leader of its group yet, or has just ended


def _read_answer(folder: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return answer


def _serve(folder: Path) -> None:
    """The child's side: limits, the call, the answer."""
    # Whoever waits for the answer may be killed: then nobody would end this process.
    end_with_parent()
    request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
    # The default action of SIGALRM ends the process even in the midst of native code.
    signal.alarm(max(1, math.ceil(request["timeout_s"])))
    limit = request["memory_limit_bytes"]
    limit_memory(limit)
    module, _, function = request["target"].partition(":")
    answer: dict[str, Any]
    try:
        value = getattr(import_module(module), function)(**request["arguments"])
        answer = {"status": "ok", "value": value, "reason": None}
        text = json.dumps(answer, allow_nan=False)
    except UserError as error:
        text = json.dumps({"status": "refused", "value": None, "reason": one_line(str(error))})
    except Exception as error:  # whatever the function may raise is an answer here
        reason = f"{type(error).__name__}: {error}"
        if is_out_of_memory(reason):
            reason = f"out of memory (limit {limit or 0:,} bytes): {reason}"
        text = json.dumps({"status": "failed", "value": None, "reason": one_line(reason)})
    temporary = folder / f".{_ANSWER}.tmp"
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, folder / _ANSWER)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
