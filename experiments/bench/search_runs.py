"""Runs of the bench of samplers: one method and one seed on a table each, in several processes, kept in a journal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.processes import in_processes
from nas.search.table import TableSource
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.search.table import CandidateTable, ReferenceName

METHODS = ("ours", "random", "nsga2", "tpe", "gp", "qlognehvi")
# Told the predictions of --prior.
WITH_PRIOR = "ours-prior"
# Optuna's own samplers may propose what they have proposed before; these are the recipe's, which never do.
UNSEEN = ("nsga2-unseen", "tpe-unseen", "gp-unseen")


@dataclass(frozen=True)
class Job:
    """One run: a method and a seed on a table."""

    table: TableSource
    method: str
    seed: int
    budget: int
    batch: int
    reference: ReferenceName
    told: bool = False
    """Whether samplers that take a reference point are told it."""
    prior: str | None = None
    """Column of the table with predictions of its first unknown objective, which the sampler is told."""

    def key(self, digest: str) -> str:
        """Name of the run in a journal: everything that its result depends on, the table by its bytes."""
        facts = {**asdict(self), "table": {**asdict(self.table), "path": digest}}
        if self.prior is None:
            del facts["prior"]  # as in journals from before there were any
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Run:
    """What one run found."""

    method: str
    seed: int
    share: tuple[float, ...]
    """Of the true hypervolume, after each evaluation."""
    architectures: tuple[str, ...]
    """In the order in which they were evaluated."""
    proposal_ms: tuple[float, ...]
    """Processor time of each proposal."""


def run_job(job: Job) -> Run:
    """Run one method with one seed to the end of its budget."""
    from nas.search.simulation import Durations, Schedule, simulate
    from nas.search.table_study import StudyDoor

    table = _read(job.table)
    trace = simulate(
        StudyDoor(
            table,
            sampler_name(job.method),
            job.seed,
            f"{job.method}-unseen" in UNSEEN,
            job.reference if job.told else None,
            job.prior,
        ),
        table,
        Durations.draw(table, seconds=1.0),
        Schedule(num_workers=job.batch, num_evaluations=job.budget),
        job.reference,
    )
    return Run(
        job.method,
        job.seed,
        tuple(trace.share.tolist()),
        tuple(table.architectures[row] for row in trace.rows),
        tuple((1e3 * trace.proposal_cpu_s).tolist()),
    )


@lru_cache(maxsize=1)
def _read(source: TableSource) -> CandidateTable:
    return source.read()  # once a process


def sampler_name(method: str) -> Any:
    """The recipe's name of a method's sampler."""
    return "ehvi" if method in ("ours", WITH_PRIOR) else method.removesuffix("-unseen")


def run_jobs(jobs: Sequence[Job], processes: int, journal: Path | None = None) -> Iterator[Run]:
    """Runs as they end, those in the journal first; new ones are appended to it."""
    digest = hashlib.sha256(Path(jobs[0].table.path).read_bytes()).hexdigest() if jobs else ""
    kept = read_journal(journal)
    open_jobs = [job for job in jobs if job.key(digest) not in kept]
    yield from (kept[job.key(digest)] for job in jobs if job.key(digest) in kept)
    if journal is not None and open_jobs:
        _append(journal, "")  # that it cannot be written is said before the work
    for job, run in in_processes(run_job, open_jobs, processes):
        if journal is not None:
            # The newline comes first: behind a line that a kill tore, it begins a new one.
            _append(journal, "\n" + json.dumps({"key": job.key(digest), **asdict(run)}))
        yield run


def _append(journal: Path, text: str) -> None:
    try:
        with open(journal, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"--journal {journal}: {error.strerror}; give a file that can be written") from None


def read_journal(journal: Path | None) -> Mapping[str, Run]:
    """Runs of a journal by their keys; a last line that a kill tore is skipped.

    Raises:
        UserError: a file that cannot be read, or is something else.
    """
    found: dict[str, Run] = {}
    if journal is None or not journal.exists():
        return found
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "no text"
        raise UserError(f"--journal {journal}: {why}; give one that this bench has written, or a new name") from None
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            if line.strip() and not line.startswith("{"):
                raise UserError(
                    f"--journal {journal}: line {number} is no run; give one that this bench has written, or a new name"
                ) from None
            continue
        try:
            found[data["key"]] = Run(
                data["method"],
                data["seed"],
                tuple(data["share"]),
                tuple(data["architectures"]),
                tuple(data["proposal_ms"]),
            )
        except (KeyError, TypeError):
            raise UserError(
                f"--journal {journal}: line {number} is no run; give one that this bench has written, or a new name"
            ) from None
    return found
