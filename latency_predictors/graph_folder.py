"""The folder where graphs lie until they are measured, and which of them is the reference."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from latency_predictors.graphs import data_path, graph_bytes, remove_onnx
from latency_predictors.journal import Journal
from latency_predictors.manifest import SubjectFacts
from latency_predictors.processes import one_line
from latency_predictors.runners.base import Prepared, Sample
from latency_predictors.subject_names import graph_name
from search_spaces.errors import UserError

Prepare = Callable[[str, Path, Sequence[Sample]], Prepared | None]
"""prepare(name, graph, samples): Runner.prepare of the graph of this name"""


class Graphs(Protocol):
    """Where the graphs come from."""

    @property
    def primers(self) -> Sequence[str]:
        """Names of graphs to run before short ones and, as the reference, in every pass: the best first."""

    def write(self, name: str, path: Path) -> Sequence[Sample]:
        """Writes the float32 graph of this name; its inputs, to calibrate on (at least one where it is quantised)."""


class GraphFolder:
    """Graphs of subjects in `folder`, each made what the runner takes by `prepare`; the reference apart.

    The reference is the first of `graphs.primers` that can be written and has not been given up. Whether it can be
    run is found out in a pass: `is_proven` is for the caller to set, and :meth:`drop_reference` for what cannot.
    """

    def __init__(self, graphs: Graphs, prepare: Prepare, journal: Journal, folder: Path) -> None:
        self._graphs, self._prepare, self._journal, self._folder = graphs, prepare, journal, folder
        self._primers: list[str] | None = None
        self._tried: set[str] = set()
        self._reference: Path | None = None
        self.is_proven = False

    def subject(self, name: str) -> Path:
        """Exports a subject, unless it is there.

        Raises:
            UserError: it cannot be exported or prepared. What is about the disk or the device is raised as it is.
        """
        path = self._folder / graph_name(name)
        self._export(name, path, is_subject=True)
        return path

    @property
    def reference_name(self) -> str:
        """Which graph is the reference."""
        return self._candidates[0]

    def reference(self) -> Path:
        """Exports the reference, unless it is there.

        Raises:
            UserError: none can be exported.
        """
        while self._reference is None:
            path = self._folder / "reference" / graph_name(self.reference_name)
            remove_onnx(path)  # of a session that was killed
            try:
                self._export(self.reference_name, path, is_subject=False)
                self._reference = path
            except UserError:
                if not self.drop_reference():
                    raise
        return self._reference

    def drop_reference(self) -> bool:
        """Gives the reference up for the next graph; False, and it stays, when it is the last or has run before."""
        if self.is_proven or len(self._candidates) < 2:
            return False
        self._forget_reference()
        self._candidates.pop(0)
        return True

    def next_reference(self) -> bool:
        """Puts the reference last, so that the next graph takes its place; False once each has had it."""
        if self.is_proven or self._tried >= set(self._candidates[1:]):
            self._tried = set()
            return False
        self._forget_reference()
        self._tried.add(self.reference_name)
        self._candidates.append(self._candidates.pop(0))
        return True

    def clean_up(self) -> None:
        """Removes the reference, and the folder if nothing else is in it."""
        self._forget_reference()
        for folder in (self._folder / "reference", self._folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    @property
    def _candidates(self) -> list[str]:
        """Primers that may still be the reference: what has failed as a subject is tried last."""
        if self._primers is None:
            self._primers = sorted(self._graphs.primers, key=lambda name: name in self._journal.failed)
        return self._primers

    def _forget_reference(self) -> None:
        if self._reference is not None:
            remove_onnx(self._reference)
            self._reference = None

    def _export(self, name: str, path: Path, *, is_subject: bool) -> None:
        if graph_bytes(path):  # files appear complete or not at all, so one that is there is good
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
            raw = Path(scratch) / path.name
            try:
                prepared = self._prepare(name, raw, self._graphs.write(name, raw))
            except (UserError, OSError):  # said already, or nothing about this graph
                raise
            except Exception as error:  # whatever exporters and quantisers may raise of somebody's graph
                raise UserError(one_line(f"{type(error).__name__}: {error}")) from error
            if prepared is not None and is_subject:
                self._journal.learn({name: SubjectFacts(prepared=prepared)})
            if data_path(raw).is_file():
                os.replace(data_path(raw), data_path(path))
            os.replace(raw, path)
