"""Tables of candidates that somebody has evaluated already: what a sampler is tried on without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nas.pareto import REFERENCE, front, hypervolume
from nas.search import table_file
from nas.search.decisions import GridSpace, ListedSpace
from nas.search.settings import Floats, Indices
from search_spaces.errors import UserError, shown

if TYPE_CHECKING:
    import pandas as pd

ReferenceName = Literal["worst", "tight"]
REFERENCES: tuple[ReferenceName, ...] = ("worst", "tight")

# A table with fewer than this share of its rows usable is not what its reader thinks it is.
_MIN_USABLE = 0.5
# The same front summed in another order.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class CandidateTable:
    """Every candidate of a space with its objectives, all minimised.

    Rows are in the order of ``space.enumerate()``, so that ``space.rank(matrix)`` gives row numbers.
    """

    name: str
    space: GridSpace
    objectives: tuple[str, ...]
    """Names of the columns of `values`."""
    known: tuple[bool, ...]
    """Which objectives are known before an evaluation, for every candidate."""
    values: Floats
    """(N, objectives), finite."""
    architectures: tuple[str, ...]
    """As the file writes them, (N,)."""
    columns: dict[str, Floats] = field(default_factory=dict)
    """Further columns (N,) that were asked for."""
    notes: tuple[str, ...] = ()
    """What was decided while reading: the sign of an accuracy, rows left out, candidates given twice."""

    def __post_init__(self) -> None:
        assert self.values.shape == (self.space.num_candidates, len(self.objectives)) == (len(self), len(self.known))
        assert np.isfinite(self.values).all()

    def __len__(self) -> int:
        return len(self.architectures)

    def known_costs(self, matrix: Indices) -> Floats:
        """Known objectives (N, known) of an index matrix (N, decisions) of rows of the table."""
        return np.asarray(self.values[self.space.rank(matrix)][:, np.array(self.known)])

    @cached_property
    def front(self) -> NDArray[np.int64]:
        """Rows of the true front, duplicates of a front row included."""
        return np.flatnonzero(front(self.values))

    def reference(self, name: ReferenceName = "worst") -> Floats:
        """Reference point (objectives,) of the hypervolume.

        ``worst``: the worst value of every objective in the table. Every front point counts, the useless ends too,
        and a handful of good points already has most of the volume.

        ``tight``: the median over the table of every objective that is not known, and of every known one 1.1 times
        the reach (from the table's least) of the front points better than those medians. The worse half of the
        candidates counts for nothing.

        Raises:
            UserError: no front point is better than the medians (a table without spread).
        """
        if name == "worst":
            return np.asarray(self.values.max(axis=0))
        known = np.array(self.known)
        median = np.median(self.values, axis=0)
        best = self.values[self.front]
        inside = best[(best < median)[:, ~known].all(axis=1)]
        if not len(inside):
            raise UserError(
                f"table {self.name}: no candidate of its front is better than the median of "
                f"{' and '.join(n for n, k in zip(self.objectives, self.known, strict=True) if not k)}; "
                "use --reference worst"
            )
        low = self.values.min(axis=0)
        return np.where(known, low + REFERENCE * (inside.max(axis=0) - low), median)

    def tracker(self, reference: ReferenceName = "worst") -> HypervolumeTracker:
        """A new tracker of the share of the true front's hypervolume."""
        return HypervolumeTracker(self, reference)


class HypervolumeTracker:
    """Share of a table's true hypervolume that the rows added so far have."""

    def __init__(self, table: CandidateTable, reference: ReferenceName = "worst") -> None:
        limit = table.reference(reference)
        low = table.values.min(axis=0)
        # Shares do not depend on units; the volume of MACs times parameters times error would lose digits.
        span = limit - low
        self._unit = np.where(span > 0, (table.values - low) / np.where(span > 0, span, 1.0), 1.0)
        self._ones = np.ones(len(limit))
        self._all = hypervolume(self._unit[table.front], self._ones)
        if not self._all > 0:
            raise UserError(
                f"table {table.name}: the true front has no hypervolume below its reference point; every objective "
                "must differ between candidates"
            )
        self._front = self._unit[:0]
        self.share = 0.0

    def add(self, row: int) -> float:
        """Add an evaluated row of the table; returns the share in [0, 1]."""
        new = self._unit[row]
        if (new < self._ones).all() and not (self._front <= new).all(axis=1).any():
            self._front = np.vstack([self._front[~(new <= self._front).all(axis=1)], new])
            share = hypervolume(self._front, self._ones) / self._all
            self.share = share if share < 1 - _ROUNDING else 1.0
        return self.share


@dataclass(frozen=True)
class TableSource:
    """How a table is read; the fields are the arguments of :func:`read_table`. Small enough to send to processes."""

    path: str
    architecture: str = "arch"
    objectives: tuple[str, ...] = ("error", "params", "flops")
    known: tuple[str, ...] = ("params", "flops")
    error_from: str | None = None
    decisions: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    def read(self) -> CandidateTable:
        """The table."""
        return read_table(
            self.path, self.architecture, self.objectives, self.known, self.error_from, self.decisions, self.columns
        )


def read_table(
    path: Path | str,
    architecture: str = "arch",
    objectives: Sequence[str] = ("error", "params", "flops"),
    known: Sequence[str] = ("params", "flops"),
    error_from: str | None = None,
    decisions: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> CandidateTable:
    """Read a CSV or Parquet table of evaluated candidates.

    Args:
        path: `.csv` or `.parquet`.
        architecture: column of architecture strings: one digit a decision (`0120`), or numbers with something between
            them (`0-12-0`). Values of a decision are those that occur, in order.
        objectives: columns to minimise; one of them may be made from `error_from`.
        known: those of them that are known before an evaluation.
        error_from: column of accuracies, in per cent (error = 100 - accuracy) or, where none is above 1, as shares
            (error = 1 - accuracy).
        decisions: columns that each are one decision, in place of `architecture`.
        columns: further columns to keep (durations, say).

    Raises:
        UserError: see each argument; numbers of data rows count from 1.
    """
    file = Path(path)
    _check_names(objectives, known)
    texts = list(decisions) or [architecture]
    frame = table_file.read_frame(file, texts)
    notes: list[str] = []
    read = {name: _objective(frame, name, objectives, error_from, file, notes) for name in objectives}
    values = np.stack(list(read.values()), axis=1)
    others = {name: table_file.numbers(frame, name, file) for name in columns}
    usable = np.isfinite(np.column_stack([values, *others.values()])).all(axis=1)
    if usable.mean() < _MIN_USABLE:
        wanted = [*objectives, *columns]
        raise UserError(
            f"table {file}: {int((~usable).sum())} of {len(frame)} rows lack a finite {' or '.join(wanted)}; choose "
            "other columns, or fill them in"
        )
    if not usable.all():
        notes.append(f"{int((~usable).sum())} of {len(frame)} rows left out: a value is missing or not finite")
    rows: list[list[str]] = frame[texts].to_numpy()[usable].tolist()
    names, parts = (tuple(texts), rows)
    if not decisions:
        names, parts = table_file.split_architectures([row[0] for row in rows], file)
    choices, matrix = table_file.index_columns(parts)
    architectures = np.array(["-".join(row) for row in rows], dtype=object)
    return _assemble(
        file.stem,
        dict(zip(names, choices, strict=True)),
        matrix,
        architectures,
        values[usable],
        tuple(objectives),
        tuple(name in known for name in objectives),
        {name: column[usable] for name, column in others.items()},
        notes,
    )


def _assemble(
    name: str,
    choices: dict[str, tuple[str, ...]],
    matrix: Indices,
    architectures: NDArray[np.object_],
    values: Floats,
    objectives: tuple[str, ...],
    known: tuple[bool, ...],
    columns: dict[str, Floats],
    notes: list[str],
) -> CandidateTable:
    distinct, first, group = np.unique(matrix, axis=0, return_index=True, return_inverse=True)
    group = group.reshape(-1)
    repeats = len(matrix) - len(distinct)
    if repeats:
        notes.append(f"{repeats} rows repeat an architecture: the mean of its rows is taken")
        counts = np.bincount(group)
        values = np.stack([np.bincount(group, column) / counts for column in values.T], axis=1)
        columns = {name: np.bincount(group, column) / counts for name, column in columns.items()}
    else:
        values = values[first]
        columns = {name: column[first] for name, column in columns.items()}
    grid = GridSpace(choices)
    # np.unique sorts rows as GridSpace counts them, the last decision fastest.
    space = grid if grid.num_candidates == len(distinct) else ListedSpace(choices, distinct)
    if isinstance(space, ListedSpace):
        share = len(distinct) / grid.num_candidates
        notes.append(
            f"{len(distinct):,} of the grid's {grid.num_candidates:,} candidates are in the table ({share:.2g})"
        )
    return CandidateTable(name, space, objectives, known, values, tuple(architectures[first]), columns, tuple(notes))


def _check_names(objectives: Sequence[str], known: Sequence[str]) -> None:
    if len(objectives) < 2 or len(set(objectives)) != len(objectives):
        raise UserError(f"--minimize {','.join(objectives)}: give two or more columns, each once")
    strangers = [name for name in known if name not in objectives]
    if strangers:
        raise UserError(f"--known {','.join(strangers)}: not minimised; legal are {', '.join(objectives)}")
    if len(set(known)) == len(objectives):
        raise UserError("--known names every objective: there is nothing to search for; leave one out")


def _objective(
    frame: pd.DataFrame, name: str, objectives: Sequence[str], error_from: str | None, file: Path, notes: list[str]
) -> Floats:
    if error_from is None or name != _made(frame, objectives, error_from, file):
        return table_file.numbers(frame, name, file)
    accuracy = table_file.numbers(frame, error_from, file)
    finite = accuracy[np.isfinite(accuracy)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if low < 0 or high > 100:
        raise UserError(
            f"table {file}: {error_from} reaches from {low:g} to {high:g}; legal are accuracies from 0 to 1 or from 0 "
            "to 100; a column that is minimised as it is goes into --minimize"
        )
    best = 1 if high <= 1 else 100
    notes.append(f"{name} = {best} - {error_from}")
    return best - accuracy


def _made(frame: pd.DataFrame, objectives: Sequence[str], error_from: str, file: Path) -> str:
    table_file.need_column(frame, error_from, file)
    missing = [name for name in objectives if name not in frame.columns]
    if len(missing) == 1:
        return missing[0]
    if not missing and "error" in objectives:
        return "error"  # the table has an error of its own; the one asked for is made
    raise UserError(
        f"--error-from {error_from}: makes one objective that is no column, and "
        f"{shown(missing) if missing else 'every one of ' + ', '.join(objectives)} "
        f"{'are none' if missing else 'is one'}; the table has {', '.join(map(str, frame.columns))}"
    )
