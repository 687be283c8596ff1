"""A process of its own beside each worker: ends it when an evaluation takes too long or too much memory.

Run as a script by :class:`nas.search.control.Watch`, which writes the name of each evaluation to its standard input as
a line, behind it the seconds that its part up to now took, and a line without a name when it is over. A thread inside
the worker could not do this: an evaluation that hangs in native code may keep Python's lock for ever. Only the standard
library and psutil are imported, so that it starts in a moment and takes little memory.

    python watchdog.py WORKER_PID CONTROL_FOLDER
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil

LIMITS_FILE = "limits.json"
REASON_SUFFIX = ".reason"
POLL_SECONDS = 0.1
# A gap longer than this between two looks is a machine that slept, or a process group that was stopped: that time is
# not the evaluation's.
LONGEST_LOOK_SECONDS = 2.0
# Of a node's memory that its workers may take together where no limit is given.
SHARE = 0.9


def node_bytes() -> int:
    """Memory of this machine, or of the container that this process is in."""
    found = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            found = min(found, int((Path("/sys/fs/cgroup") / name).read_text()))
    return found


def resident_bytes(pid: int) -> int:
    """Memory that is the process's own: files that it maps, as other workers do, are left out where that is known."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            parts = [line.split() for line in file if line.startswith(("RssAnon:", "RssShmem:"))]
        return sum(int(part[1]) * 1024 for part in parts)
    except (OSError, ValueError, IndexError):
        return int(psutil.Process(pid).memory_info().rss)


def breach(limits: dict[str, Any], seconds: float, num_bytes: int, of_node: int) -> str | None:
    """Why the evaluation must end: one line, or None.

    Args:
        limits: `seconds`, `seconds_of` (what set them), `worker_bytes` (None: a share of the node's), `per_node`.
        seconds: since the evaluation began.
        num_bytes: that the worker holds.
        of_node: memory of the node.
    """
    if limits.get("seconds") is not None and seconds > limits["seconds"]:
        return f"no result within {limits['seconds']:.3g} s ({limits['seconds_of']})"
    if limits.get("worker_bytes") is not None:
        most, of = limits["worker_bytes"], "search.worker_memory_gb"
    else:
        most, of = SHARE * of_node / limits.get("per_node", 1), "a worker's share of the machine's"
    if num_bytes > most:
        return f"more than {most / 1e9:.3g} GB of memory ({of})"
    return None


def main(pid: int, folder: Path) -> None:
    """Watch until standard input is closed, which the end of the worker does, too."""
    trial, seconds, limits, stamp = "", 0.0, {}, -1
    of_node, text = node_bytes(), b""
    last = time.monotonic()
    while True:
        if select.select([0], [], [], POLL_SECONDS if trial else None)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, text = (text + data).split(b"\n")
            if lines:
                trial, _, before = lines[-1].decode().partition(" ")
                seconds, last = float(before or 0), time.monotonic()
        if not trial:
            continue
        now = time.monotonic()
        seconds, last = seconds + min(now - last, LONGEST_LOOK_SECONDS), now
        with contextlib.suppress(OSError, ValueError):
            found = os.stat(folder / LIMITS_FILE).st_mtime_ns
            if found != stamp:
                limits, stamp = json.loads((folder / LIMITS_FILE).read_text()), found
        try:
            reason = breach(limits, seconds, resident_bytes(pid), of_node)
        except psutil.Error:
            return
        if reason:
            with contextlib.suppress(OSError):  # a full disk: it ends anyway, without a word
                part = folder / f"{trial}.part"
                part.write_text(reason)
                os.replace(part, folder / f"{trial}{REASON_SUFFIX}")
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
