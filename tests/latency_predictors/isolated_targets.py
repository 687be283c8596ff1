"""What test_isolated.py calls in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from search_spaces.errors import UserError


def add(a: float, b: float) -> dict[str, float]:
    return {"sum": a + b}


def refuse(text: str) -> None:
    raise UserError(text)


def fail(text: str) -> None:
    raise RuntimeError(text)


def crash() -> None:
    print("the last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(0)


def who() -> int:
    return os.getpid()


def no_json() -> object:
    return object()


def hang(pid_file: str) -> None:
    """Hangs with a child that hangs too, both deaf to all but SIGKILL."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(pid_file).write_text(str(child.pid))
    time.sleep(600)


def allocate(num_bytes: int) -> int:
    return len(bytearray(num_bytes))
