"""Processes of onnxruntime_perf_test on the phone, one subject each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from latency_predictors.android.perf_test import Failure, PerfTest
from latency_predictors.android.store import Store
from latency_predictors.graphs import data_path
from latency_predictors.importers.perf_test import read_runs_ms
from latency_predictors.runners.base import MeasureSettings
from search_spaces.errors import UserError

_ATTEMPTS = 3


class Calls:
    """Processes on the phone, one subject each."""

    def __init__(
        self, store: Store, tool: PerfTest, settings: MeasureSettings, before_each: Callable[[str], None]
    ) -> None:
        """`before_each` is called with the subject before each process, also before one that is tried again."""
        self._store, self._tool, self._before_each = store, tool, before_each
        # The tool makes one run of its own before those that it tells.
        self._num_skipped = settings.warm_up - 1
        self._repeats = settings.rounds_per_pass + self._num_skipped

    def profile(self, subject: str, model: str) -> dict[str, int]:
        """Operators by provider; UserError, naming the subject, if it cannot run or runs elsewhere."""
        prefix = self._store.new_name("profile")
        self._call(subject, self._tool.command(model, self._store.new_name("unused.csv"), 1, profile=prefix))
        with tempfile.TemporaryDirectory(prefix="phone-") as scratch:
            # onnxruntime appends the time to the name.
            local = self._store.fetch(self._store.find(prefix), Path(scratch) / "profile.json")
            return self._tool.placement(subject, local)

    def time(self, subject: str, model: str) -> tuple[float, ...]:
        """Milliseconds of each run after warm-up."""
        result = self._store.new_name("result.csv")
        self._call(subject, self._tool.command(model, result, self._repeats))
        with tempfile.TemporaryDirectory(prefix="phone-") as scratch:
            runs_ms = read_runs_ms(self._store.fetch(result, Path(scratch) / "result.csv"))
        if len(runs_ms) != self._repeats:
            raise UserError(
                f"graph of {subject}: onnxruntime_perf_test told {len(runs_ms)} runs instead of {self._repeats}; "
                "give one built from a release of onnxruntime"
            )
        return tuple(runs_ms[self._num_skipped :])

    def _call(self, subject: str, command: Sequence[str]) -> None:
        failure: Failure | None = None
        for _ in range(_ATTEMPTS):
            self._before_each(subject)
            begin = time.monotonic()
            reply = self._store.adb.shell(command, timeout_s=self._tool.patience_s)
            failure = self._tool.failure(reply, time.monotonic() - begin)
            if failure is None:
                return
            if not failure.crashed:
                break
        assert failure is not None
        raise UserError(f"graph of {subject}: {failure.reason}")


def graph_files(subject: str, path: Path) -> dict[str, Path]:
    """What makes a graph: its file and that of its weights, under the name by which the graph finds it."""
    if not path.is_file():
        raise UserError(f"graph of {subject}: {path} does not exist; export it first")
    weights = data_path(path)
    return {"model.onnx": path, **({weights.name: weights} if weights.is_file() else {})}
