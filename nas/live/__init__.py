"""A run seen while it goes on, from its files alone: nothing of the run is written, locked or asked.

`LiveRun(folder).status()` is what `nanosd status` prints; :mod:`nas.live.app` is the page of `nanosd dashboard`.
Neither torch, Ray nor Optuna is imported.
"""

from nas.live.run import LiveRun
from nas.live.status import Failure, Proposed, RunStatus, Worker

__all__ = ["Failure", "LiveRun", "Proposed", "RunStatus", "Worker"]
