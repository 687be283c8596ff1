"""Calls functions in a process of their own, with a time and a memory limit: a crash or a hang costs only itself.

Compilers and runtimes of devices are other people's native code: they abort, run out of memory and
hang, and take the process with them. Arguments and results cross as JSON files.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Self

from latency_predictors.processes import end_with_parent, how_it_ended, is_out_of_memory, limit_memory, one_line
from search_spaces.errors import UserError

Status = Literal["ok", "refused", "failed", "crashed", "timed_out"]

_REQUEST, _ANSWER, _STDERR = "request.json", "answer.json", "stderr.txt"
_POLL_S = 0.02
_ORPHAN_GRACE_S = 5.0
_END_S = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a call in another process ended.

    status: "ok"; "refused" (the function raised UserError); "failed" (any other exception);
        "crashed" (a signal, or an exit without an answer); "timed_out".
    value: what the function returned, as JSON gives it back; None unless "ok".
    reason: one line; None if "ok".
    seconds: wall time, that of a process's start included.
    peak_bytes: the process's largest resident memory so far, looked at every 20 ms where /proc has it.
    """

    status: Status
    value: Any
    reason: str | None
    seconds: float
    peak_bytes: int


def call(
    target: str, arguments: Mapping[str, Any], *, timeout_s: float, memory_limit_bytes: int | None = None
) -> Outcome:
    """One call in a process of its own; see :class:`Caller`."""
    with Caller(memory_limit_bytes) as caller:
        return caller.call(target, arguments, timeout_s=timeout_s)


class Caller:
    """Another Python process that functions are called in, one after another; a context manager.

    The process starts with the first call, and anew with the next one after it broke or :meth:`stop`. On Linux it ends
    with this one, elsewhere a little after a call's time, should this one be killed.

    memory_limit_bytes: most private memory that the process may allocate; what asks for more fails.
        Not enforced where the system has no such limit (macOS).
    """

    def __init__(self, memory_limit_bytes: int | None = None) -> None:
        self._limit_bytes = memory_limit_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def call(self, target: str, arguments: Mapping[str, Any], *, timeout_s: float) -> Outcome:
        """Calls `target` ("package.module:function") with keyword `arguments`.

        Parameters
        ----------
        arguments: JSON-ready values.
        timeout_s: wall time after which the process and its children are killed.
        """
        assert timeout_s > 0
        begin = time.perf_counter()
        process, folder = self._started()
        (folder / _ANSWER).unlink(missing_ok=True)
        os.truncate(folder / _STDERR, 0)  # last words are those of this call
        request = {
            "target": target,
            "arguments": dict(arguments),
            "timeout_s": timeout_s + _ORPHAN_GRACE_S,
            "memory_limit_bytes": self._limit_bytes,
        }
        (folder / _REQUEST).write_text(json.dumps(request, allow_nan=False), encoding="utf-8")
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it is dead: how is told below
                process.stdin.write(b"\n")
                process.stdin.flush()
            timed_out, peak_bytes = _wait(process, folder / _ANSWER, begin + timeout_s)
        except BaseException:
            _kill(process)
            self.stop()
            raise
        seconds = time.perf_counter() - begin
        answer = None if timed_out else _read_answer(folder)
        if answer is not None:
            peak_bytes = peak_bytes or answer["peak_bytes"]
            return Outcome(answer["status"], answer["value"], answer["reason"], seconds, peak_bytes)
        if timed_out or process.returncode == -signal.SIGALRM:
            outcome = Outcome("timed_out", None, f"stopped after {timeout_s:g} s", seconds, peak_bytes)
        else:
            reason = how_it_ended(process.returncode, folder / _STDERR)
            outcome = Outcome("crashed", None, reason, seconds, peak_bytes)
        self.stop()
        return outcome

    def stop(self) -> None:
        """Ends the process, if there is one: its memory is given back."""
        process, scratch = self._process, self._scratch
        self._process = self._scratch = None
        if process is not None:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # asks it to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            if process.poll() is None:
                _kill(process)
                process.wait()
        if scratch is not None:
            scratch.cleanup()

    def _started(self) -> tuple[subprocess.Popen[bytes], Path]:
        if self._process is not None and self._process.poll() is not None:  # somebody ended it between two calls
            self.stop()
        if self._process is None or self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="isolated-")
            # Appending: what is written after the file was emptied stands at its beginning.
            with (Path(self._scratch.name) / _STDERR).open("ab") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "latency_predictors.isolated", self._scratch.name],
                    stdin=subprocess.PIPE,
                    stdout=stderr,
                    stderr=stderr,
                    # A group of its own, so that the kill reaches what the function starts.
                    start_new_session=True,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                )
        return self._process, Path(self._scratch.name)


def _wait(process: subprocess.Popen[bytes], answer: Path, deadline: float) -> tuple[bool, int]:
    """Waits for the answer, or until the process ends or is killed at the deadline: whether it was, and its memory."""
    timed_out, peak_bytes = False, 0
    while True:
        is_answered = answer.exists()
        peak_bytes = _peak_bytes(process.pid) or peak_bytes
        if is_answered and not timed_out:
            return False, peak_bytes
        # wait4 rather than Popen.wait: only it tells the memory of this one child.
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return timed_out, peak_bytes or _in_bytes(usage.ru_maxrss)
        if not timed_out and time.perf_counter() > deadline:
            timed_out = True
            _kill(process)
        time.sleep(_POLL_S)


def _in_bytes(max_rss: int) -> int:
    return max_rss * (1 if sys.platform == "darwin" else 1024)


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
    """The child's side: a call and its answer for every line read, until there is nobody to read from."""
    # Whoever waits for the answer may be killed: then nobody would end this process.
    end_with_parent()
    orders = os.fdopen(os.dup(0), "rb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # what a function starts does not read the orders
    os.close(nothing)
    while orders.readline():
        request = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
        # The default action of SIGALRM ends the process even in the midst of native code.
        signal.alarm(max(1, math.ceil(request["timeout_s"])))
        text = _answer_to(request)
        signal.alarm(0)
        temporary = folder / f".{_ANSWER}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / _ANSWER)
    # Not the interpreter's end: a library that breaks while it is taken down says nothing of a call.
    os._exit(0)


def _answer_to(request: Mapping[str, Any]) -> str:
    """The answer as JSON; whatever the function may raise is one."""
    limit = request["memory_limit_bytes"]
    answer: dict[str, Any] = {"status": "ok", "value": None, "reason": None}
    try:
        limit_memory(limit)
        module, _, function = request["target"].partition(":")
        answer["value"] = getattr(import_module(module), function)(**request["arguments"])
        answer["peak_bytes"] = _in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return json.dumps(answer, allow_nan=False)
    except UserError as error:
        answer = {"status": "refused", "value": None, "reason": one_line(str(error))}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        if is_out_of_memory(reason):
            reason = f"out of memory (limit {limit or 0:,} bytes): {reason}"
        answer = {"status": "failed", "value": None, "reason": one_line(reason)}
    answer["peak_bytes"] = _in_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return json.dumps(answer)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
