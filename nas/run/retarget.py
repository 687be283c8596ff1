"""The front of a run drawn again for another device, from what the run has evaluated; nothing is trained.

A candidate's fidelity is the same on every device; only its latency changes. The new device's profile gives that for
all evaluated candidates, and with the run's table of single swaps also says which candidates of the whole space, never
evaluated, would be on the new front if their predicted errors hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nas.latency import DeviceFacts, device_facts, latency_table, told_apart
from nas.picks import Pick, choose
from nas.run.context import RunContext
from nas.run.moves import Standing, front_change_is_tie, kendall, rank_change_is_tie, ranks, standing
from nas.run.unevaluated import Promising, Unevaluated, promising
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.latency_table import LatencyTable
    from latency_predictors.models.base import Prediction
    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile import DeviceProfile
    from nas.search.store import CandidateRecord
    from search_spaces.space import Indices

Floats = NDArray[np.float64]
Move = Literal["stays", "enters", "leaves", "off"]


@dataclass(frozen=True)
class Place:
    """One candidate on one device.

    Attributes:
        low_ms, high_ms: 90 % interval.
        rank: among all evaluated candidates, 1 the fastest; rank_low, rank_high: where ties could put it.
        front_rank: rank among the candidates that are on either device's front; None for the others.
    """

    latency_ms: float
    low_ms: float
    high_ms: float
    extrapolates: bool
    rank: int
    rank_low: int
    rank_high: int
    front_rank: int | None
    on_front: bool


@dataclass(frozen=True)
class Moved:
    """One evaluated candidate on both devices.

    Attributes:
        move: whether it `stays` on the front, `enters` it on the new device, `leaves` it, or is `off` both.
        front_tie: the move may be due to latencies that tie; rank_tie: so may be the change of rank.
    """

    candidate: str
    options: dict[str, str]
    latent_error: float
    num_params: int
    num_macs: int | None
    here: Place
    there: Place
    move: Move
    front_tie: bool
    rank_tie: bool


@dataclass(frozen=True)
class Retargeted:
    """All that `nanosd retarget` says; see :func:`retarget`.

    Attributes:
        candidates: every finished candidate, the most faithful first.
        kendall_all, kendall_front, kendall_space: Kendall's tau of the latencies on both devices, over the evaluated
            candidates, those on either front, and the whole space (an even sample of a large one).
        picks_here, picks_there: by the same rules; budgets in milliseconds are each device's own.
        latency_budget: of the picks there; the run's own is of its device and is not carried over.
        promising: unevaluated candidates; `promising_missing` says why there is none to look for.
    """

    run: str
    space: str
    here: DeviceFacts
    there: DeviceFacts
    candidates: tuple[Moved, ...]
    kendall_all: float | None
    kendall_front: float | None
    kendall_space: float | None
    picks_here: dict[str, Pick]
    picks_there: dict[str, Pick]
    latency_budget: float | None
    promising: tuple[Promising, ...]
    promising_missing: str | None
    prior_ratio: float | None
    seconds: float

    @property
    def titles(self) -> tuple[str, str]:
        """Of both profiles, here and there, told apart."""
        return told_apart(self.here, self.there)

    def moved(self, *moves: Move) -> tuple[Moved, ...]:
        """Candidates of these moves."""
        return tuple(c for c in self.candidates if c.move in moves)

    @property
    def on_either_front(self) -> tuple[Moved, ...]:
        """Candidates of one or both fronts, the most faithful first."""
        return self.moved("stays", "enters", "leaves")

    @property
    def num_extrapolating(self) -> int:
        """Evaluated candidates that the new device's profile extrapolates to."""
        return sum(c.there.extrapolates for c in self.candidates)

    def find(self, candidate: str) -> Moved:
        """An evaluated candidate by its id."""
        return next(c for c in self.candidates if c.candidate == candidate)


def retarget(
    run_dir: Path | str, device: str, max_latency_ms: float | None = None, max_params: int | None = None
) -> Retargeted:
    """The front and the picks of a run on another device.

    Args:
        run_dir: a run that is finished, stopped or running; it is only read.
        device: file of a device profile, or the name of a shipped one.
        max_latency_ms: budget on the new device, for one more pick and for what to evaluate next.
        max_params: budget of both; default: the run's own.

    Raises:
        UserError: no run, no finished candidate; a profile that cannot be read or is of another space, teacher or size;
            a budget that no evaluated candidate meets.
    """
    import time

    from latency_predictors.profile import DeviceProfile
    from latency_predictors.profile_file import load_profile

    start = time.monotonic()
    run = RunContext.open(run_dir)
    records = sorted(
        (r for r in run.store.latest() if r.outcome == "done" and "latent_error" in r.metrics),
        key=lambda r: (r.metrics["latent_error"], r.candidate),
    )
    if not records:
        raise UserError(f"run {run_dir} has no finished candidate yet; look with: nanosd status {run_dir}")
    profile = load_profile(device)
    own = run.profile
    # A device profile is of one teacher and one latent size; an NPU profile is tabulated for the run's.
    of = (own.teacher_key, own.latent_size) if isinstance(own, DeviceProfile) else (run.directory.teacher_key(), None)
    table = latency_table(profile, run.space, run.recipe.teacher, *of)
    matrix = np.stack([run.space.encode(Candidate.from_id(r.candidate, run.space.stages)) for r in records])
    here, there = _stored(records, run.latency.predict(matrix)), table.predict(matrix)
    candidates = _moved(records, here, there)
    budgets = run.recipe.picks
    picks_here = choose(records, budgets.max_latency_ms, budgets.max_params, budgets.max_error)
    elsewhere = [
        r.model_copy(update={"latency_ms": float(ms)}) for r, ms in zip(records, there.latency_ms, strict=True)
    ]
    max_params = max_params or budgets.max_params
    picks_there = choose(elsewhere, max_latency_ms, max_params, budgets.max_error)
    found = promising(run, records, matrix, table, max_latency_ms, max_params)
    either = np.array([c.move != "off" for c in candidates])
    return Retargeted(
        run=str(run.directory.path),
        space=run.space.name,
        here=_facts(own, run.directory.profile),
        there=_facts(profile, device),
        candidates=candidates,
        kendall_all=kendall(here.latency_ms, there.latency_ms),
        kendall_front=kendall(here.latency_ms[either], there.latency_ms[either]),
        kendall_space=_whole_space(run, table),
        picks_here=picks_here,
        picks_there=picks_there,
        latency_budget=max_latency_ms,
        promising=found.candidates if isinstance(found, Unevaluated) else (),
        promising_missing=None if isinstance(found, Unevaluated) else found,
        prior_ratio=found.prior_ratio if isinstance(found, Unevaluated) else None,
        seconds=time.monotonic() - start,
    )


def _facts(profile: DeviceProfile | NpuProfile, file: Path | str) -> DeviceFacts:
    key = sha256(profile.model_dump_json().encode()).hexdigest()[:16]
    return replace(device_facts(profile), file=str(file), key=key)


def _stored(records: Sequence[CandidateRecord], prediction: Prediction) -> Prediction:
    """The latencies that the search went by, with the intervals of the run's profile around them."""
    stored = np.array([record.latency_ms for record in records])
    factor = stored / prediction.latency_ms
    return replace(
        prediction, latency_ms=stored, low_ms=prediction.low_ms * factor, high_ms=prediction.high_ms * factor
    )


def _moved(records: Sequence[CandidateRecord], here: Prediction, there: Prediction) -> tuple[Moved, ...]:
    error = np.array([r.metrics["latent_error"] for r in records])
    params = np.array([r.num_params for r in records], dtype=np.float64)
    old, new = standing(error, params, here), standing(error, params, there)
    front_ties, rank_ties = front_change_is_tie(old, new), rank_change_is_tie(old, new)
    either = np.flatnonzero(old.on_front | new.on_front)
    found = []
    front_ranks = [dict(zip(either, ranks(p.latency_ms[either]), strict=True)) for p in (here, there)]
    for row, record in enumerate(records):
        was, now = bool(old.on_front[row]), bool(new.on_front[row])
        found.append(
            Moved(
                candidate=record.candidate,
                options=record.options,
                latent_error=record.metrics["latent_error"],
                num_params=record.num_params,
                num_macs=record.num_macs,
                here=_place(here, old, front_ranks[0], row),
                there=_place(there, new, front_ranks[1], row),
                move=("stays" if now else "leaves") if was else "enters" if now else "off",
                front_tie=bool(front_ties[row]),
                rank_tie=bool(rank_ties[row]),
            )
        )
    return tuple(found)


def _place(latency: Prediction, stand: Standing, front_ranks: dict[int, int], row: int) -> Place:
    return Place(
        latency_ms=float(latency.latency_ms[row]),
        low_ms=float(latency.low_ms[row]),
        high_ms=float(latency.high_ms[row]),
        extrapolates=bool(latency.extrapolates[row]),
        rank=int(stand.rank[row]),
        rank_low=int(stand.rank_low[row]),
        rank_high=int(stand.rank_high[row]),
        front_rank=int(front_ranks[row]) if row in front_ranks else None,
        on_front=bool(stand.on_front[row]),
    )


def _whole_space(run: RunContext, table: LatencyTable) -> float | None:
    from nas.search.settings import table_or_sample

    matrix: Indices = table_or_sample(run.space, run.recipe.seed)
    matrix = matrix[:: -(-len(matrix) // 50_000)]  # Kendall's tau settles long before
    return kendall(run.latency.latency_ms(matrix), table.latency_ms(matrix))
