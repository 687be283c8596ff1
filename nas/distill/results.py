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

    `start_loss` and `end_loss` are the relative losses of the inherited and of the trained weights on the
    same held-out batches, None in results of versions before there were these. Where the training made a
    block worse, its inherited weights are in the bank, and `kept_inherited` says so.
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
    start_loss: float | None = None
    end_loss: float | None = None
    kept_inherited: bool = False

    @property
    def gain(self) -> float | None:
        """Share of the inherited weights' loss that the training took away; None where it is not known.

        0 where the inherited weights were kept, 1 where they were exact.
        """
        start, end = self.start_loss, self.end_loss
        if start is None or end is None:  # of an earlier version: on the batches that it was trained on
            start, end = self.first_loss, self.last_loss
        if self.status == "stopped" or start is None or end is None:
            return None
        return 1.0 if start == 0 else max(0.0, 1 - end / start)


def little_gain(results: Mapping[Block, BlockResult], min_gain: float) -> dict[Block, float]:
    """Blocks whose training took away less than `min_gain` (a share) of their loss, with that gain.

    Such an option is not worth keeping: the search cannot tell it from its untrained self.
    """
    gains = {block: result.gain for block, result in results.items()}
    return {block: gain for block, gain in gains.items() if gain is not None and gain < min_gain}


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
