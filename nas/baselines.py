"""Hand-made baselines beside the searched candidates of a run: the record (`baselines.json`) and the verdict.

All entries are *finished*: trained on the same footing and measured after it (docs/baselines.md). Objectives are the
finished latent error, the latency and the parameters; nothing of the search itself takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from nas.pareto import ObjectiveScale, front
from search_spaces.errors import UserError

BASELINES_FILE = "baselines.json"
Interval = tuple[FiniteFloat, FiniteFloat]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Difference(_Frozen):
    """Latent error of a baseline minus that of a searched candidate on the same samples: its mean and 95 % interval.

    Above 0 the searched one is nearer to the teacher.
    """

    searched: str
    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


class Entry(_Frozen):
    """One finished network: costs, latency of a forward at batch 1, and distances to the teacher.

    Attributes:
        rule: how its layout was made, or why it was chosen, in words.
        training: what it was trained with, in words.
        num_block_steps, num_output_steps: steps of feature-wise distillation of its blocks, and of output-level
            distillation of the whole.
        predicted_ms: on the run's device; None where its profile does not know the options.
        measured_ms, measured_iqr_ms: median and interquartile range in one interleaved run of all entries, here.
        before: measures before the output-level distillation; `after` after it, which `intervals` (95 %) are of.
        aligned: False where the output-level distillation brought it no closer, and was not kept.
        dominated_by: of a baseline the searched entries that dominate it, best first.
        rival: of a baseline, the difference to the searched candidate that was chosen against it beforehand.
    """

    name: str
    kind: Literal["baseline", "searched"]
    candidate: str
    rule: str
    training: str
    num_block_steps: int = Field(ge=0)
    num_output_steps: int = Field(ge=0)
    num_params: int = Field(gt=0)
    num_macs: int = Field(gt=0)
    predicted_ms: FiniteFloat | None
    measured_ms: FiniteFloat
    measured_iqr_ms: FiniteFloat
    before: dict[str, FiniteFloat]
    after: dict[str, FiniteFloat]
    intervals: dict[str, Interval] = {}
    aligned: bool
    dominated_by: tuple[str, ...] = ()
    rival: Difference | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether it was made by hand."""
        return self.kind == "baseline"


class Baselines(_Frozen):
    """`baselines.json`.

    Attributes:
        key: names everything that the entries follow from.
        latency: which latency the verdict is by, `device` what it is of.
        teacher_ms: the teacher's latency in the same interleaved run.
        entries: searched candidates, then baselines.
        hypervolume_searched: share of the box that the searched entries dominate, `hypervolume_with` with the baselines
            as well, `hypervolume_baselines` of these alone; one scale for all, from all the entries.
    """

    format_version: Literal[1] = 1
    key: str
    latency: Literal["measured", "predicted"]
    device: str
    teacher_ms: FiniteFloat
    entries: tuple[Entry, ...]
    hypervolume_searched: Annotated[float, Field(ge=0, le=1)]
    hypervolume_with: Annotated[float, Field(ge=0, le=1)]
    hypervolume_baselines: Annotated[float, Field(ge=0, le=1)]

    @property
    def baselines(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.is_baseline)

    @property
    def searched(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if not entry.is_baseline)

    @property
    def dominates_all(self) -> bool:
        """Whether every baseline is dominated by some searched entry."""
        return all(entry.dominated_by for entry in self.baselines)

    def latency_ms(self, entry: Entry) -> float:
        """The latency of an entry that the verdict is by."""
        chosen = entry.measured_ms if self.latency == "measured" else entry.predicted_ms
        assert chosen is not None, f"{entry.name} has no {self.latency} latency"
        return chosen


def judged(
    key: str, latency: Literal["measured", "predicted"], device: str, teacher_ms: float, entries: Sequence[Entry]
) -> Baselines:
    """The record with who dominates whom and the hypervolumes."""
    bare = Baselines(
        key=key,
        latency=latency,
        device=device,
        teacher_ms=teacher_ms,
        entries=tuple(entries),
        hypervolume_searched=0,
        hypervolume_with=0,
        hypervolume_baselines=0,
    )
    values = objectives(bare)
    made_by_hand = np.array([entry.is_baseline for entry in entries])
    scale = ObjectiveScale.of(values)
    found = []
    for entry, row in zip(entries, values, strict=True):
        beaten_by = dominators(row, values) & ~made_by_hand
        order = [int(i) for i in np.argsort(values[:, 0], kind="stable") if beaten_by[i]]
        names = tuple(entries[i].name for i in order) if entry.is_baseline else ()
        found.append(entry.model_copy(update={"dominated_by": names}))
    return bare.model_copy(
        update={
            "entries": tuple(found),
            "hypervolume_searched": scale.hypervolume(values[~made_by_hand]),
            "hypervolume_with": scale.hypervolume(values),
            "hypervolume_baselines": scale.hypervolume(values[made_by_hand]),
        }
    )


def objectives(record: Baselines) -> NDArray[np.float64]:
    """Latent error, latency in ms and parameters (entries, 3)."""
    rows = [(e.after["latent_error"], record.latency_ms(e), e.num_params) for e in record.entries]
    return np.array(rows, dtype=np.float64)


def dominators(row: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of `values` (N, objectives) are at least as good as `row` in everything and better in something."""
    return np.asarray((values <= row).all(axis=1) & (values < row).any(axis=1))


def strongest_rival(
    costs: NDArray[np.float64], errors: NDArray[np.float64], limit: NDArray[np.float64], other_than: int | None = None
) -> int | None:
    """The most faithful of evaluated candidates that cost no more than a baseline in anything.

    Args:
        costs: (N, costs) of the candidates; errors: (N,).
        limit: (costs,) of the baseline.
        other_than: row of the baseline itself among the candidates.

    Returns:
        Its row; None where all cost more in something.
    """
    allowed = np.asarray((costs <= limit).all(axis=1), dtype=bool)
    if other_than is not None:
        allowed[other_than] = False
    rows = np.flatnonzero(allowed)
    return int(rows[errors[rows].argmin()]) if len(rows) else None


def spread_rows(values: NDArray[np.float64], num: int, max_error: float) -> list[int]:
    """At most `num` rows of the front of `values` (N, objectives), evenly from the least error to `max_error`.

    Where no error is as low as that, from the whole front.
    """
    rows = np.flatnonzero(front(values))
    within = rows[values[rows, 0] <= max_error]
    rows = within if len(within) else rows
    rows = rows[np.argsort(values[rows, 0], kind="stable")]
    return [int(row) for row in rows[np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int))]]


def read_baselines(path: Path) -> Baselines | None:
    """The record of a run; None where there is none.

    Raises:
        UserError: a file that is not what this version writes.
    """
    try:
        return Baselines.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{path}: {where} is not valid ({first['msg']}); delete it and run `nanosd baselines` again"
        ) from None
