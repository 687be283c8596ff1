"""What a run takes over from other runs: trained blocks, and the errors of candidates assembled from the same blocks.

The error of a candidate depends on its blocks, on the teacher and on the inputs it is compared on; not on the device,
the search space or the sampler. So a run on another device, or over another space that shares options, has the same
errors where the blocks have the same keys (`nas.block_bank`: a key holds everything that decides a block's weights) and
both recipes measure fidelity the same way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.recipe_hash import FREE
from nas.run.directory import RunDirectory
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.config import Recipe
    from nas.distill.results import Block
    from nas.run.context import RunContext
    from nas.search.record import CandidateRecord
    from nas.search.settings import KnownCosts
    from nas.search.store import CandidateStore
    from search_spaces.space import SearchSpace

REUSED_FILE = "reused.json"
_CHUNK = 10_000

Keys = Mapping["Block", str | None]
"""Bank key of each surrogate block (stage, option) of a run; None where its training was stopped."""


@dataclass(frozen=True)
class TakenOver:
    """How much of another run is in this one."""

    run: str
    candidates: int
    """Finished candidates of it that this run has."""
    finished: int
    """All finished candidates of it."""


def check_sources(run: RunContext) -> None:
    """Raise unless every run of `reuse` measured the same thing in the same way; nothing is written.

    Raises:
        UserError: no run there, this run itself, or a field of its recipe that decides errors and differs.
    """
    for name in run.recipe.reuse:
        directory = RunDirectory(name)
        if not directory.config.is_file() and name in _taken_over(run.directory):
            continue  # gone, after it was taken over
        if directory.path.resolve() == run.directory.path.resolve():
            raise UserError(f"reuse: {name} is this run itself; name another run")
        theirs = directory.recipe()
        for field, mine, other in _deciding(run.recipe, theirs):
            if mine != other:
                raise UserError(
                    f"reuse: run {name} has {field} = {other!r}, this one {mine!r}, so that their errors cannot be "
                    "compared; make them equal, or leave that run out"
                )
        key = directory.teacher_key()
        if key is not None and key != run.teacher.key:
            raise UserError(
                f"reuse: run {name} was made with another teacher (key {key}, here {run.teacher.key}); "
                "leave that run out"
            )


def reuse_blocks(run: RunContext) -> int:
    """Copy blocks that this run needs from the banks of the runs that it reuses; how many."""
    from nas.atomic import write_bytes
    from nas.block_bank import BlockBank
    from nas.distill.blocks import block_key, surrogate_blocks

    copied = 0
    banks = [BlockBank(RunDirectory(name).bank) for name in run.recipe.reuse]
    for block in surrogate_blocks(run.teacher.unet, run.space) if banks else ():
        key = block_key(run.space, block, run.teacher.key, run.dataset.key, run.distill_settings)
        source = next((bank for bank in banks if bank.has(key)), None)
        if source is not None and not run.bank.has(key):
            # The record last, as the bank does: only then the block counts as there. It is checked when it is read.
            for path in (source.weights_path(key), source.record_path(key)):
                write_bytes(run.bank.folder / path.name, path.read_bytes())
            copied += 1
    return copied


def reuse_candidates(run: RunContext, prior: Callable[[Any], Any]) -> list[TakenOver]:
    """Store the finished candidates of the runs that this one reuses, with this run's costs; again does no harm.

    Args:
        prior: predicted error (N,) of index matrices (N, decisions).

    Raises:
        UserError: a run that is not there and was not taken over before, or a store that cannot be read or written.
    """
    from nas.atomic import write_json
    from nas.distill.results import read_results
    from nas.search.store import CandidateStore

    check_sources(run)
    known = _taken_over(run.directory)
    for name in run.recipe.reuse:
        directory = RunDirectory(name)
        if not directory.config.is_file() and name in known:
            continue
        if not directory.blocks.is_file():
            raise UserError(f"reuse: run {name} has no trained blocks yet; wait for it, or leave that run out")
        theirs, mine = (
            {block: None if result.reason else result.key for block, result in read_results(path).items()}
            for path in (directory.blocks, run.directory.blocks)
        )
        known[name] = take_over(
            CandidateStore(directory.store),
            theirs,
            run.store,
            mine,
            run.space,
            run.known_costs,
            prior,
            run.recipe_hash,
            name,
        )
        rows = [asdict(known[text]) for text in run.recipe.reuse if text in known]
        write_json(run.directory.path / REUSED_FILE, rows)
    return [known[name] for name in run.recipe.reuse]


def take_over(
    source: CandidateStore,
    source_keys: Keys,
    target: CandidateStore,
    target_keys: Keys,
    space: SearchSpace,
    costs: KnownCosts,
    prior: Callable[[Any], Any],
    recipe_hash: str,
    name: str,
) -> TakenOver:
    """Append the done records of `source` that hold in `target` too, with the costs of the target's device.

    A record holds where the space has its options, every block has the same key in both runs (a teacher's own block has
    none in either) and at least one has a key: it also stands for teacher and data being the same.
    """
    from search_spaces.candidate import Candidate

    rows, _ = source.objectives(costs.error)
    for begin in range(0, len(rows), _CHUNK):
        records, vectors = [], []
        for record in source.at(rows[begin : begin + _CHUNK]):
            blocks = [(stage, option) for stage, option in record.options.items()]
            keys = [target_keys.get(block) for block in blocks]
            same = keys == [source_keys.get(block) for block in blocks] and any(keys)
            stopped = any(block in target_keys and key is None for block, key in zip(blocks, keys, strict=True))
            candidate = Candidate(options=record.options)
            if same and not stopped and space.contains(candidate):
                records.append(record)
                vectors.append(space.encode(candidate))
        if records:
            target.extend(_priced(records, np.stack(vectors), costs, prior, recipe_hash, name))
    table = target.table(target.latest_rows(), ["reused_from"])
    taken = int(np.sum(table["reused_from"].to_numpy() == name)) if "reused_from" in table.column_names else 0
    return TakenOver(name, taken, len(rows))


def num_reused(store: CandidateStore) -> int:
    """Number of candidates of a store that another run evaluated."""
    table = store.table(store.latest_rows(), ["reused_from"])
    return int(len(table) - table["reused_from"].null_count)


def _priced(
    records: list[CandidateRecord],
    matrix: Any,
    costs: KnownCosts,
    prior: Callable[[Any], Any],
    recipe_hash: str,
    name: str,
) -> list[CandidateRecord]:
    values = costs.matrix(matrix)
    macs = None if costs.num_macs is None else np.asarray(costs.num_macs(matrix))
    expected = np.asarray(prior(matrix), dtype=np.float64)
    return [
        record.model_copy(
            update={
                "vector": tuple(int(i) for i in matrix[row]),
                "latency_ms": float(values[row, 0]),
                "num_params": int(values[row, 1]),
                "num_macs": None if macs is None else int(macs[row]),
                "prior": float(expected[row]) if np.isfinite(expected[row]) else None,
                "recipe_hash": recipe_hash,
                "reused_from": name,
            }
        )
        for row, record in enumerate(records)
    ]


def _deciding(mine: Recipe, theirs: Recipe) -> list[tuple[str, Any, Any]]:
    """Fields that decide a candidate's errors: dotted name, value here, value there."""
    found: list[tuple[str, Any, Any]] = [("seed", mine.seed, theirs.seed)]
    for section in ("data", "distill", "fidelity"):
        here, there = getattr(mine, section).model_dump(), getattr(theirs, section).model_dump()
        cost_only = FREE | {"distill.checkpoint_every", "distill.max_parallel"}
        names = [(key, f"{section}.{key}") for key in here]
        found += [(name, here[key], there[key]) for key, name in names if name not in cost_only]
    found.append(("search.distill_steps", mine.search.distill_steps, theirs.search.distill_steps))
    if mine.search.distill_steps:
        here, there = mine.finalize.model_dump(exclude={"steps"}), theirs.finalize.model_dump(exclude={"steps"})
        found += [(f"finalize.{key}", here[key], there[key]) for key in here]
    return found


def _taken_over(directory: RunDirectory) -> dict[str, TakenOver]:
    try:
        rows = json.loads((Path(directory.path) / REUSED_FILE).read_text(encoding="utf-8"))
        return {row["run"]: TakenOver(**row) for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
