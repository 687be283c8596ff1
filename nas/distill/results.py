"""What became of each surrogate block, in memory and as `blocks.json` of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from nas.atomic import write_json
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.data import Batch

Block = tuple[str, str]
BatchSource = Callable[[int], "Iterator[Batch]"]
"""Batches from a given step on: `source(k)` yields what `source(0)` yields after k items."""
OnProgress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and a short note."""


class BlockResult(BaseModel):
    """What became of one surrogate block.

    `first_loss` is the relative loss before the first update, `last_loss` the mean over the last 5 % of
    the steps, `losses` about 50 means over the whole course. `status` `stopped` means a non-finite loss
    or gradient: `reason` says so, and the block is not in the bank.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    option: str
    key: str
    status: Literal["trained", "bank", "stopped"]
    reason: str | None = None
    num_params: int
    num_steps: int
    first_loss: float | None
    last_loss: float | None
    losses: tuple[float, ...] = ()


def save_results(path: Path, results: Mapping[Block, BlockResult]) -> None:
    """Write results as a JSON list (`blocks.json` of a run)."""
    write_json(Path(path), [result.model_dump() for result in results.values()])


def read_results(path: Path) -> dict[Block, BlockResult]:
    """Read what `save_results` wrote.

    Raises:
        UserError: not such a file.
    """
    try:
        results = [BlockResult.model_validate(item) for item in json.loads(Path(path).read_text())]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; delete it and distil again") from None
    return {(result.stage, result.option): result for result in results}
