"""A runner that really breaks: for tests of what a broken measurement costs. Imported by worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from latency_predictors.measurement import Recording
from latency_predictors.runners.base import Announce, MeasureSettings, Prepared, Sample
from latency_predictors.runners.onnxruntime_cpu import OnnxRuntimeRunner
from latency_predictors.subject_names import graph_name
from search_spaces.errors import UserError

WAYS = ("abort", "abort preparing", "hang preparing", "hang", "hang silently", "raise", "refuse", "kill", "memory")


class BadRunner(OnnxRuntimeRunner):
    """onnxruntime's, but one subject breaks the process in some way as soon as it is loaded.

    `marker`: a file; while it exists, the subject is good. `at_most`: groups of no more subjects than this are good,
    the reference counted. "hang silently": before it turns to any subject in the second pass, having turned to
    this one last. "... preparing": in w8a8, while its graph is prepared; the others' are taken as they are.
    """

    def __init__(self, subject: str = "", way: str = "", marker: str = "", at_most: int = 0) -> None:
        super().__init__(precision="w8a8" if way.endswith("preparing") else "float32")
        self._bad, self._way, self._marker, self._at_most = subject, way, marker, at_most

    def prepare(self, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        if self._way.endswith("preparing") and graph.name == graph_name(self._bad):
            self._break()
        return None

    def passes(
        self,
        subjects: Mapping[str, Path],
        settings: MeasureSettings,
        primer: Path | None = None,
        announce: Announce | None = None,
    ) -> Iterator[dict[str, Recording]]:
        if self._way == "memory" and len(subjects) > self._at_most:
            assert announce is not None
            announce(list(subjects)[self._at_most])
            raise MemoryError
        inner = super().passes(subjects, settings, primer, announce)
        first = next(inner)
        is_silent = self._way == "hang silently"
        if is_silent and self._bad in subjects:
            assert announce is not None
            announce(self._bad)
        yield first  # one pass is good
        is_mended = self._marker and Path(self._marker).exists()
        if self._bad in subjects and len(subjects) > self._at_most and not is_mended:
            assert announce is not None
            if not is_silent:
                announce(self._bad)
            self._break()
        yield from inner

    def _break(self) -> None:
        if self._way.startswith("abort"):
            os.abort()
        if self._way.startswith("hang"):
            time.sleep(1000)
        if self._way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._way == "refuse":
            raise UserError("graph of it: not today")
        raise RuntimeError("device lost")
