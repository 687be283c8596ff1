"""Candidates picked from the front by rules that are said in words.

Picks are made among the *admissible* part of the front: candidates whose error is at most `max_error` (default 0.5,
half of the teacher's variance; a network that says nothing scores 1). The fastest and the smallest network of a
whole front are usually useless, and their costs would stretch the scale on which the knee is found. If no candidate
of the front is admissible, the more faithful half of it is taken instead and the rule's text says so.

- `fastest`: least predicted latency; `smallest`: fewest parameters (ties: the more faithful).
- `prime`: the knee. Each objective is scaled to [0, 1] over the admissible front, and the candidate nearest (Euclid)
  to the corner of the three best values, the utopia point, is taken. On a front that is an octant of a sphere this is
  its middle. (Das 1999 and Branke et al. 2004 discuss knees; the distance to utopia is the compromise solution of
  Yu 1973.)
- `budget`: the most faithful candidate within `max_latency_ms` and/or `max_params`, whatever its error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, FiniteFloat

from nas.atomic import write_bytes
from nas.pareto import front
from nas.search.store import CandidateRecord
from search_spaces.errors import UserError

MAX_ERROR = 0.5


class Pick(BaseModel):
    """One chosen candidate and the rule that chose it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    rule: str
    """The rule in words, for tables."""
    latent_error: FiniteFloat
    latency_ms: FiniteFloat
    num_params: int
    num_macs: int | None = None


def knee(values: Any) -> int:
    """Row of `values` (N, objectives) nearest to the utopia point, each objective scaled to [0, 1] over the rows.

    An objective in which all rows are equal does not count. Of equally near rows the first is taken.
    """
    matrix = np.asarray(values, dtype=np.float64)
    assert matrix.ndim == 2 and len(matrix), "a knee needs at least one row"
    low, high = matrix.min(axis=0), matrix.max(axis=0)
    unit = (matrix - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin((unit**2).sum(axis=1)))


def choose(
    records: Sequence[CandidateRecord],
    max_latency_ms: float | None = None,
    max_params: int | None = None,
    max_error: float = MAX_ERROR,
    error: str = "latent_error",
) -> dict[str, Pick]:
    """Pick `fastest`, `smallest`, `prime` and, if a budget is given, `budget` from evaluated candidates.

    Args:
        records: of a store; those that are not done are ignored.
        max_latency_ms: budget of predicted latency.
        max_params: budget of parameters.
        max_error: largest error of an admissible candidate, see the module's text.
        error: metric that is the error.

    Raises:
        UserError: no finished candidate, or a budget that none meets; the reachable range is named.
    """
    done = [record for record in records if record.outcome == "done" and error in record.metrics]
    values = np.array([[record.metrics[error], record.latency_ms, record.num_params] for record in done])
    return choose_rows(values, done.__getitem__, max_latency_ms, max_params, max_error, error)


def choose_rows(
    values: NDArray[np.float64],
    record_of: Callable[[int], CandidateRecord],
    max_latency_ms: float | None = None,
    max_params: int | None = None,
    max_error: float = MAX_ERROR,
    error: str = "latent_error",
) -> dict[str, Pick]:
    """:func:`choose` of candidates as columns, of which only the picks are needed as records.

    Args:
        values: error, latency in ms and parameters (N, 3) of the finished candidates.
        record_of: the record of a row.
    """
    if len(values) == 0:
        raise UserError(
            "no candidate of this run is finished, so nothing can be picked; run or resume the search first"
        )
    rows = np.flatnonzero(front(values))
    allowed = rows[values[rows, 0] <= max_error]
    where = f"among the front's candidates with {error} of at most {max_error:g}"
    if len(allowed) == 0:
        allowed = rows[values[rows, 0] <= np.median(values[rows, 0])]
        where = f"among the more faithful half of the front ({error} is above {max_error:g} everywhere)"

    def make(row: int, rule: str) -> Pick:
        record = record_of(row)
        return Pick(
            candidate=record.candidate,
            rule=rule,
            latent_error=record.metrics[error],
            latency_ms=record.latency_ms,
            num_params=record.num_params,
            num_macs=record.num_macs,
        )

    picks = {
        "fastest": make(_least(values, allowed, (1, 0, 2)), f"least predicted latency {where}"),
        "smallest": make(_least(values, allowed, (2, 0, 1)), f"fewest parameters {where}"),
        "prime": make(
            int(allowed[knee(values[allowed])]), f"knee (nearest to the best of all three objectives) {where}"
        ),
    }
    if max_latency_ms is not None or max_params is not None:
        within = _within(values, max_latency_ms, max_params)
        limits = []
        if max_latency_ms is not None:
            limits.append(f"{max_latency_ms:g} ms")
        if max_params is not None:
            limits.append(f"{max_params:,} parameters")
        picks["budget"] = make(_least(values, within, (0, 1, 2)), f"most faithful within {' and '.join(limits)}")
    return picks


def _least(values: NDArray[np.float64], rows: NDArray[np.intp], order: tuple[int, ...]) -> int:
    """The row that is least in `order[0]`, then in `order[1]` ..."""
    return int(min(rows, key=lambda row: tuple(values[row, column] for column in order)))


def _within(values: NDArray[np.float64], max_latency_ms: float | None, max_params: int | None) -> NDArray[np.intp]:
    fast = np.ones(len(values), bool) if max_latency_ms is None else values[:, 1] <= max_latency_ms
    small = np.ones(len(values), bool) if max_params is None else values[:, 2] <= max_params
    if (fast & small).any():
        return np.flatnonzero(fast & small)
    if max_latency_ms is not None and not fast.any():
        raise UserError(
            f"no evaluated candidate has a predicted latency within max_latency_ms = {max_latency_ms:g}; "
            f"they reach from {values[:, 1].min():.4g} to {values[:, 1].max():.4g} ms; raise it"
        )
    if max_params is not None and not small.any():
        raise UserError(
            f"no evaluated candidate has at most max_params = {max_params:,} parameters; "
            f"they reach from {values[:, 2].min():,.0f} to {values[:, 2].max():,.0f}; raise it"
        )
    raise UserError(
        f"no evaluated candidate is within max_latency_ms = {max_latency_ms:g} and max_params = {max_params:,}; "
        f"within the latency they have {values[fast, 2].min():,.0f} parameters or more, "
        f"within the parameters {values[small, 1].min():.4g} ms or more; raise one"
    )


def save_picks(picks: Mapping[str, Pick], path: Path) -> None:
    """Write `{pick: {candidate, rule, ...}}` as JSON at one stroke.

    Raises:
        UserError: the file cannot be written.
    """
    write_bytes(path, (json.dumps({n: p.model_dump() for n, p in picks.items()}, indent=1) + "\n").encode())


def load_picks(path: Path) -> dict[str, Pick]:
    """Read :func:`save_picks`' file.

    Raises:
        UserError: missing, not JSON, or not picks.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {name: Pick.model_validate(value) for name, value in data.items()}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make the picks first: nanosd pick") from None
    except (ValueError, AttributeError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} does not hold picks ({first}); make them again: nanosd pick") from None
