"""Measures many graphs in groups, each group in a process of its own, with a journal that outlives any kill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt

from latency_predictors.graph_folder import GraphFolder, Graphs
from latency_predictors.graphs import graph_bytes, remove_onnx
from latency_predictors.journal import Journal
from latency_predictors.manifest import (
    REFERENCE,
    Manifest,
    SubjectFacts,
    drift_of,
    summarise_quantization,
    total_placement,
)
from latency_predictors.measurement import Conditions, current_conditions
from latency_predictors.preparing import Preparer
from latency_predictors.runners import RunnerSpec
from latency_predictors.runners.base import DeviceError, MeasureSettings, Prepared, Progress, Runner, Sample
from latency_predictors.runners.in_this_process import InThisProcess
from latency_predictors.runners.round_robin import Session
from latency_predictors.runners.worker import Broken, GroupWorker, Pass
from search_spaces.atomic import WriteError
from search_spaces.errors import UserError


class GroupSettings(MeasureSettings):
    """MeasureSettings, and what a group of graphs may cost.

    group_bytes: graphs are measured together until their files exceed this; onnxruntime holds about three times
        that, and the activations of one run: all sessions of a group share one arena. It is lowered to an eighth
        of the memory that is available.
    timeout_s: longest that one load or one run may take; what takes longer is stopped and counts as hung.
    prepare_timeout_s: longest that one graph may take to be turned into the runner's precision.
    memory_limit_bytes: private memory of the measuring process, and of the one that prepares graphs; by default nine
        tenths of what is available. A group that needs more is split.
    """

    group_bytes: PositiveInt = 1536 << 20
    timeout_s: PositiveFloat = Field(default=300.0, allow_inf_nan=False)
    prepare_timeout_s: PositiveFloat = Field(default=1800.0, allow_inf_nan=False)
    memory_limit_bytes: PositiveInt | None = None


def measure_all(
    names: Sequence[str],
    graphs: Graphs,
    runner: RunnerSpec | Runner,
    settings: GroupSettings,
    journal: Journal,
    folder: Path,
    on_progress: Progress | None = None,
) -> Manifest | None:
    """Measures what the journal does not hold yet; call again after a kill, and it goes on.

    Parameters
    ----------
    runner: by name, to prepare and measure graphs in processes of their own: a subject that hangs one, or crashes it
        again when alone, is marked as failed in the journal, and the others go on. A runner itself works in this one.
    folder: takes the graphs until they are measured.
    on_progress: (subjects done, by the share of their time, subjects in all, note).

    Returns the session's manifest, which is also in the journal; the journal's last one if there was nothing to do.
    """
    assert REFERENCE not in names
    work = _Work(names, graphs, runner, settings, journal, folder, on_progress)
    pending = [name for name in names if name not in journal.finished and name not in journal.failed]
    if not pending:
        return journal.manifest
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    smallest_group = len(pending)
    with closing(work):
        while pending:
            group, pending = work.next_group(pending)
            if group:
                num, left = work.measure(group)
                pending = left + pending
                smallest_group = min(smallest_group, num) if num else smallest_group
    work.folder.clean_up()
    made = work.runner
    facts = {name: fact for name, fact in journal.facts.items() if name in names}
    manifest = Manifest(
        device=made.device,
        runtime=made.runtime,
        precision=made.precision,
        threads=made.threads,
        versions=made.versions,
        conditions=work.last_conditions or current_conditions(next(iter(made.versions.values()), "unknown"), False),
        settings=settings.model_dump(mode="json"),
        placement=total_placement(facts),
        quantization=summarise_quantization(facts),
        drift=drift_of(journal.recordings.get(REFERENCE, ()), smallest_group),
        num_subjects=len(names),
        failed={name: reason for name, reason in journal.failed.items() if name in names},
        started_at=started_at,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    journal.close(manifest)
    if manifest.drift is not None and manifest.drift.warning is not None:
        work.report(manifest.drift.warning)
    return manifest


class _Work:
    """One call of measure_all: exports groups and measures them."""

    def __init__(
        self,
        names: Sequence[str],
        graphs: Graphs,
        runner: RunnerSpec | Runner,
        settings: GroupSettings,
        journal: Journal,
        folder: Path,
        on_progress: Progress | None,
    ) -> None:
        self._names, self._settings, self._journal, self._on_progress = names, settings, journal, on_progress
        self._spec = runner if isinstance(runner, RunnerSpec) else None
        self.runner: Runner = runner.make() if isinstance(runner, RunnerSpec) else runner
        self._preparer: Preparer | None = None
        # float32 graphs are taken as they are exported: no need of a process.
        if self._spec is not None and self.runner.precision != "float32":
            self._preparer = Preparer(
                self._spec, timeout_s=settings.prepare_timeout_s, memory_limit_bytes=self._memory_limit_bytes
            )
        self.folder = GraphFolder(graphs, self._prepare, journal, folder)
        self._cpu_s = 0.0
        self._alone: set[str] = set()
        self.last_conditions: Conditions | None = None

    def report(self, note: str, under_way: int = 0) -> None:
        if self._on_progress is not None:
            done = sum(name in self._journal.failed or name in self._journal.finished for name in self._names)
            self._on_progress(done + under_way, len(self._names), note)

    def close(self) -> None:
        """Ends the process that prepares graphs, until the next one is to be: nothing runs beside what is timed."""
        if self._preparer is not None:
            self._preparer.stop()

    def next_group(self, pending: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
        """Exports the next subjects, as many as go together: their graphs, and those that are left."""
        limit = min(self._settings.group_bytes, _available_bytes() // 8)
        group: dict[str, Path] = {}
        left = list(pending)
        while left and sum(map(graph_bytes, group.values())) < limit and not self._alone & group.keys():
            if left[0] in self._alone and group:
                break
            name = left.pop(0)
            self.report(f"export {name}")
            try:
                group[name] = self.folder.subject(name)
            except (DeviceError, WriteError):  # about no subject
                raise
            except UserError as error:
                self._journal.fail(name, str(error))
                self.report(f"{name} failed: {error}")
        return group, left

    def measure(self, group: dict[str, Path]) -> tuple[int, list[str]]:
        """Measures a group: the number of subjects that it had in the end, and those that have to wait for the next."""
        left: list[str] = []
        again: list[str] = []
        while group:
            broken = self._until_over(group)
            if broken is None:
                break
            names = list(group)
            if broken.fault == "out_of_memory" and len(group) > 1:
                kept = max(1, names.index(broken.subject) if broken.subject in group else len(group) // 2)
                self.report(f"out of memory with {len(group)} graphs; {kept} at a time")
                for name in names[kept:]:
                    del group[name]
                left = names[kept:] + left
                continue
            if broken.subject == REFERENCE and self._change_reference(group, broken):
                continue
            # Whatever memory ran out for in a group of one, the reference too: without this subject it would do.
            subject = names[0] if broken.fault == "out_of_memory" else broken.subject
            if subject is None or subject == REFERENCE:
                raise UserError(f"measuring: {broken.reason}; no subject is at fault, mend this and go on")
            if broken.fault in ("crashed", "failed") and len(group) > 1:
                # Native code that runs out of memory may end in any way, on whichever subject comes next.
                self._alone.add(subject)
                again.append(subject)
                del group[subject]
                self.report(f"{subject} broke, and is tried again alone: {broken.reason}")
                continue
            self._journal.fail(subject, broken.reason)
            remove_onnx(group.pop(subject))
            self.report(f"{subject} failed: {broken.reason}")
        self._journal.finish(list(group))
        for path in group.values():
            remove_onnx(path)
        self.report("measured")
        return len(group), left + again

    def _until_over(self, group: Mapping[str, Path]) -> Broken | None:
        """Passes over a group until its session is over (None), or what broke it."""
        session: Session | None = None
        reference = self.folder.reference()
        self.close()
        with self._source({REFERENCE: reference, **group}, reference) as source:
            while True:
                made = source.next_pass()
                if isinstance(made, Broken):
                    return made
                self._cpu_s = made.cpu_s
                self.folder.is_proven |= REFERENCE in made.recordings
                if session is None:
                    # The clock starts with the first pass: loading is not measuring.
                    session = Session(len(group), self._settings, lambda: self._cpu_s)
                    for name in group:
                        for earlier in self._journal.recordings.get(name, []):
                            session.add({name: earlier})
                    self._learn_placement(group, made)
                session.add({name: made.recordings[name] for name in group if name in made.recordings})
                self._journal.add_pass(made.recordings.values())
                self.last_conditions = next(iter(made.recordings.values())).conditions
                # All subjects of a group end together: what is shown as done is the group's share of its time.
                self.report(f"{len(group)} in turn, round {session.num_rounds}", int(session.share * len(group)))
                # A pass that was cut short is followed by what cut it.
                if made.recordings.keys() >= group.keys() and session.is_over:
                    return None

    def _source(self, graphs: Mapping[str, Path], primer: Path) -> GroupWorker | InThisProcess:
        if self._spec is None:
            return InThisProcess(self.runner, graphs, self._settings, primer)
        return GroupWorker(
            self._spec,
            graphs,
            self._settings,
            primer,
            timeout_s=self._settings.timeout_s,
            memory_limit_bytes=self._memory_limit_bytes,
        )

    def _prepare(self, name: str, graph: Path, samples: Sequence[Sample]) -> Prepared | None:
        if self._preparer is None:
            return self.runner.prepare(graph, samples)
        self.report(f"{self.runner.precision} of {name}")
        return self._preparer.prepare(graph, samples)

    @property
    def _memory_limit_bytes(self) -> int:
        return self._settings.memory_limit_bytes or _available_bytes() * 9 // 10

    def _learn_placement(self, group: Mapping[str, Path], made: Pass) -> None:
        known = self._journal.facts
        self._journal.learn(
            {
                name: known.get(name, SubjectFacts()).model_copy(update={"placement": made.placement.get(name, {})})
                for name in group
            }
        )

    def _change_reference(self, group: dict[str, Path], broken: Broken) -> bool:
        """Takes another graph as the reference, if there is one; what was refused or hung has failed as a subject."""
        name = self.folder.reference_name
        if broken.fault == "out_of_memory":
            return name not in group and self.folder.next_reference()
        if not self.folder.drop_reference():
            return False
        self.report(f"{name} cannot be the reference: {broken.reason}")
        if name in group and broken.fault in ("refused", "timed_out"):
            self._journal.fail(name, broken.reason.replace(f"graph of {REFERENCE}:", f"graph of {name}:"))
            remove_onnx(group.pop(name))
        return True


def _available_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
