"""A group's passes in a process of their own: what crashes or hangs there costs one subject, not the session.

The process writes which subject it turns to, and when, into a shared page before each load and each run. When
it dies, or stays on one subject for too long, the page says whose fault it was. A pass is made when it is asked
for, so that nothing runs beside the timed graphs.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Self

from latency_predictors.measurement import Recording
from latency_predictors.processes import end_with_parent, how_it_ended, is_out_of_memory, limit_memory, one_line
from latency_predictors.runners import RunnerSpec
from latency_predictors.runners.base import DeviceError, MeasureSettings
from search_spaces.errors import UserError

Fault = Literal["refused", "failed", "out_of_memory", "crashed", "timed_out"]

_PAGE = struct.Struct("qq")  # index of the subject, CLOCK_MONOTONIC in nanoseconds when it was turned to; 0: idle
_POLL_S = 0.5
_START_S = 60.0
_END_S = 15.0


class Pass(NamedTuple):
    """One pass: recordings by subject, nodes by subject and provider, and the process's seconds on the processor."""

    recordings: dict[str, Recording]
    placement: dict[str, dict[str, int]]
    cpu_s: float


class Broken(NamedTuple):
    """The process is gone. `subject` was at fault; None when it broke before it turned to any."""

    subject: str | None
    fault: Fault
    reason: str


class GroupWorker:
    """Measures one group of graphs (name -> ONNX file) in a process of its own; a context manager.

    Parameters
    ----------
    timeout_s: longest that one load, or one run with its primer, may take.
    memory_limit_bytes: most private memory that the process may allocate, where the system has such a limit.
    """

    def __init__(
        self,
        spec: RunnerSpec,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None,
        *,
        timeout_s: float,
        memory_limit_bytes: int | None = None,
    ) -> None:
        self._names = list(subjects)
        self._timeout_s = timeout_s
        self._scratch = tempfile.TemporaryDirectory(prefix="measure-")
        self._folder = Path(self._scratch.name)
        request = {
            "spec": spec.model_dump(mode="json"),
            "subjects": {name: str(path.resolve()) for name, path in subjects.items()},
            "settings": settings.model_dump(mode="json", include=set(MeasureSettings.model_fields)),
            "primer": None if primer is None else str(primer.resolve()),
            "memory_limit_bytes": memory_limit_bytes,
        }
        (self._folder / "request.json").write_text(json.dumps(request, allow_nan=False), encoding="utf-8")
        self._page = self._folder / "page"
        self._page.write_bytes(_PAGE.pack(-1, 0))
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""

    def __enter__(self) -> Self:
        with (self._folder / "stderr.txt").open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "latency_predictors.runners.worker", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        self._started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        process = self._running
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()  # asks it to end
        if not any(error):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
        if process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        process.wait()
        self._scratch.cleanup()

    def next_pass(self) -> Pass | Broken:
        """Makes one pass over the group. After `Broken` there is none to come."""
        process = self._running
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: the answer says how
            process.stdin.write(b"\n")
            process.stdin.flush()
        line = self._line()
        if line is None:
            return self._post_mortem()
        answer = json.loads(line)
        if "broken" in answer:
            return Broken(**answer["broken"])
        recordings = [Recording.model_validate(r) for r in answer["pass"]]
        return Pass({r.subject: r for r in recordings}, answer["placement"], answer["cpu_s"])

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "enter the context first"
        return self._process

    def _line(self) -> bytes | None:
        """The next line that the process writes; None when it has ended, or was killed for its silence."""
        stdout = self._running.stdout
        assert stdout is not None
        while b"\n" not in self._received:
            if select.select([stdout], [], [], min(_POLL_S, self._timeout_s / 4))[0]:
                read = os.read(stdout.fileno(), 1 << 20)
                if not read:
                    return None
                self._received += read
            elif self._is_stalled():
                os.killpg(self._running.pid, signal.SIGKILL)
                self._running.wait()
                self._timed_out = True
                return None
        line, _, self._received = self._received.partition(b"\n")
        return line

    _timed_out = False

    def _turned_to(self) -> tuple[str | None, int]:
        index, since_ns = _PAGE.unpack(self._page.read_bytes()[: _PAGE.size])
        return (self._names[index] if index >= 0 else None), since_ns

    def _is_stalled(self) -> bool:
        subject, since_ns = self._turned_to()
        if subject is None:
            return time.monotonic() - self._started > max(_START_S, self._timeout_s)
        return since_ns > 0 and time.monotonic_ns() - since_ns > 1e9 * self._timeout_s

    def _post_mortem(self) -> Broken:
        subject, _ = self._turned_to()
        if self._timed_out:
            return Broken(subject, "timed_out", f"stopped after {self._timeout_s:g} s without an end")
        code = self._running.wait()
        reason = how_it_ended(code, self._folder / "stderr.txt")
        # Linux ends a process by SIGKILL when the machine is out of memory.
        is_memory = code == -signal.SIGKILL or is_out_of_memory(reason)
        return Broken(subject, "out_of_memory" if is_memory else "crashed", reason)


def _serve(folder: Path) -> None:
    """The process's side: a pass for every line read, until there is nobody to read from."""
    end_with_parent()
    # What libraries print is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    limit_memory(request["memory_limit_bytes"])
    index = {name: i for i, name in enumerate(request["subjects"])}
    with (folder / "page").open("r+b") as file, mmap.mmap(file.fileno(), _PAGE.size) as page:
        turned_to: str | None = None

        def announce(name: str) -> None:
            nonlocal turned_to
            turned_to = name
            _PAGE.pack_into(page, 0, index[name], time.monotonic_ns())

        try:
            runner = RunnerSpec.model_validate(request["spec"]).make()
            passes = runner.passes(
                {name: Path(path) for name, path in request["subjects"].items()},
                MeasureSettings.model_validate(request["settings"]),
                None if request["primer"] is None else Path(request["primer"]),
                announce=announce,
            )
            while sys.stdin.readline():
                if turned_to is not None:  # before it turns to a subject again, it may hang as well
                    announce(turned_to)
                recordings = next(passes)
                if turned_to is not None:
                    _PAGE.pack_into(page, 0, index[turned_to], 0)
                _answer(
                    answers,
                    {
                        "pass": [r.model_dump(mode="json") for r in recordings.values()],
                        "placement": {name: runner.placement.get(name, {}) for name in recordings},
                        "cpu_s": time.process_time(),
                    },
                )
            # A runner may have something to take away, such as files on a phone.
            close = getattr(passes, "close", None)
            if close is not None:
                close()
        except Exception as error:  # whatever a runtime may raise is an answer here
            is_ours = isinstance(error, UserError)
            reason = str(error) if is_ours else f"{type(error).__name__}: {error}"
            fault: Fault = "refused" if is_ours else "failed"
            at_fault = None if isinstance(error, DeviceError) else turned_to
            if is_out_of_memory(reason):
                fault = "out_of_memory"
            _answer(answers, {"broken": {"subject": at_fault, "fault": fault, "reason": one_line(reason)}})
        # Not the interpreter's end: a runtime that breaks while it is taken down says nothing of a subject.
        answers.flush()
        os._exit(0)


def _answer(answers: IO[str], value: Any) -> None:
    answers.write(json.dumps(value, allow_nan=False) + "\n")
    answers.flush()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
