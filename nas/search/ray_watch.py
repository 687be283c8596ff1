"""Notice at once that a process of an own Ray has died."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

import psutil

# Without either nothing can be started or finished any more.
NEEDED = ("raylet", "gcs_server")
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 5.0


class RayWatch:
    """Raises KeyboardInterrupt in the main thread when Ray's raylet or GCS server, children of this process, have died.

    Ray itself goes on for a minute without them, then ends the driver from native code, without an exception. Most of
    its waiting is native, too, and hears of no signal; so `stuck` is called in a thread when :meth:`stop` has not been
    called some seconds later.
    """

    def __init__(self, stuck: Callable[[str], None]) -> None:
        self._stuck = stuck
        self.dead: str | None = None
        """The process that has died."""
        self._stop = threading.Event()
        children = psutil.Process().children(recursive=True)
        self._needed: list[tuple[str, psutil.Process]] = []
        for child in children:
            with contextlib.suppress(psutil.Error):
                if child.name() in NEEDED:
                    self._needed.append((child.name(), child))
        # Not SIGINT where it can be helped: a process that a script started in the background ignores that one.
        self._signal, self._before = signal.SIGINT, None
        if threading.current_thread() is threading.main_thread():
            self._signal, self._before = signal.SIGUSR1, signal.signal(signal.SIGUSR1, self._interrupt)
        self._thread = threading.Thread(target=self._watch, name="ray-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more: Ray is about to be stopped."""
        self._stop.set()
        self._thread.join()
        if self._signal == signal.SIGUSR1:
            signal.signal(signal.SIGUSR1, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._stop.is_set():
            raise KeyboardInterrupt

    def _watch(self) -> None:
        while self.dead is None and not self._stop.wait(POLL_SECONDS):
            self.dead = next((name for name, process in self._needed if not _lives(process)), None)
        if self.dead is not None:
            os.kill(os.getpid(), self._signal)
            if not self._stop.wait(PATIENCE_SECONDS):
                self._stuck(self.dead)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
