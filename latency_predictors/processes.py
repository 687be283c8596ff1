"""What processes that run other people's native code share: their limits, and how they say what broke them."""

from __future__ import annotations

import ctypes
import resource
import signal
import sys
from pathlib import Path

# C++ and Python name the same thing differently; the runtimes wrap both in exceptions of their own.
_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "MemoryError",
    "Cannot allocate memory",
    "not enough memory",
    "Failed to allocate memory",
)
_PR_SET_PDEATHSIG = 1
_MAX_REASON = 500


def is_out_of_memory(reason: str) -> bool:
    """Whether an error's text says that memory ran out."""
    return any(sign in reason for sign in _OUT_OF_MEMORY)


def one_line(text: str) -> str:
    """Without line breaks, at most 500 characters."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_REASON else line[: _MAX_REASON - 3] + "..."


def how_it_ended(exit_code: int, stderr: Path) -> str:
    """One line on a process that ended without an answer: its signal or exit code, and its last words."""
    if exit_code < 0:
        try:
            what = f"ended by {signal.Signals(-exit_code).name}"
        except ValueError:
            what = f"ended by signal {-exit_code}"
    else:
        what = f"ended with exit code {exit_code} and no answer"
    lines = stderr.read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return one_line(f"{what}: {last}" if last else what)


def end_with_parent() -> None:
    """Ends this process when its parent is gone, even killed, where the system can (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def limit_memory(num_bytes: int | None) -> None:
    """Most private memory that this process may allocate from here on, where the system has such a limit."""
    if num_bytes is not None and hasattr(resource, "RLIMIT_DATA"):
        resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))
