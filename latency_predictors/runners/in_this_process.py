"""A group's passes in this process: for runners that are given as objects."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from latency_predictors.measurement import Recording
from latency_predictors.runners.base import DeviceError, MeasureSettings, Runner
from latency_predictors.runners.worker import Broken, Pass
from search_spaces.errors import UserError


class InThisProcess:
    """GroupWorker's interface around a runner of this process: a graph that is refused costs only itself, no more."""

    def __init__(self, runner: Runner, graphs: Mapping[str, Path], settings: MeasureSettings, primer: Path) -> None:
        self._runner = runner
        self._turned_to: str | None = None
        self._passes: Iterator[dict[str, Recording]] = runner.passes(graphs, settings, primer, announce=self._announce)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        close = getattr(self._passes, "close", None)
        if close is not None:
            close()

    def _announce(self, name: str) -> None:
        self._turned_to = name

    def next_pass(self) -> Pass | Broken:
        try:
            recordings = next(self._passes)
        except DeviceError as error:
            return Broken(None, "refused", str(error))
        except UserError as error:
            return Broken(self._turned_to, "refused", str(error))
        return Pass(recordings, self._runner.placement, time.process_time())
