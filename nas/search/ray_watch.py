"""Notice at once that a process of an own Ray has died."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import psutil

# Without either nothing can be started or finished any more.
NEEDED = ("raylet", "gcs_server")
POLL_SECONDS = 0.5


class RayWatch:
    """Interrupts this process (SIGINT) when Ray's raylet or GCS server, its children, have died.

    Ray itself goes on for a minute without them, then ends the driver from native code, without an exception.
    """

    def __init__(self) -> None:
        self.dead: str | None = None
        """The process that has died."""
        self._stop = threading.Event()
        children = psutil.Process().children(recursive=True)
        self._needed: list[tuple[str, psutil.Process]] = []
        for child in children:
            with contextlib.suppress(psutil.Error):
                if child.name() in NEEDED:
                    self._needed.append((child.name(), child))
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more: Ray is about to be stopped."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            for name, process in self._needed:
                if not _lives(process):
                    self.dead = name
                    os.kill(os.getpid(), signal.SIGINT)
                    return


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
