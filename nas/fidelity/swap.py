"""The table of single-swap errors: one option at a time in an otherwise whole network, as a prior.

Thirty evaluations, once, give a score for every candidate of the space by adding up table entries. How
well that sum follows measured candidates is not assumed: `additivity` states it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from nas.atomic import write_json
from nas.fidelity.errors import FidelityError
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from nas.distill.results import Block, OnProgress
    from nas.fidelity.paired import PairedEvaluator
    from nas.teacher import Teacher
    from search_spaces.candidate import Candidate
    from search_spaces.space import SearchSpace

Floats = npt.NDArray[np.float64]


class SwapTable(BaseModel):
    """`latent_error` of the base network with one option swapped in.

    `errors[stage][option]` has every option of the space in its order; the base's own options hold
    `base_error`. An option whose network gives non-finite values is None there, with its reason in
    `failed["stage/option"]`. `key` digests evaluator and block weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: int = 1
    key: str
    base: str
    base_error: float
    errors: dict[str, dict[str, float | None]]
    failed: dict[str, str] = {}

    def prior(self, stage_rows: npt.ArrayLike) -> Floats:
        """Predicted latent_error (N,) of option numbers (N, stages): base error + what each swap adds.

        A swap adds max(error - base_error, 0): below the base lies only the noise of the measure. A
        failed option gives infinity.
        """
        rows = np.atleast_2d(np.asarray(stage_rows, dtype=np.int64))
        total = np.full(len(rows), self.base_error)
        for column, options in enumerate(self.errors.values()):
            added = [np.inf if error is None else max(error - self.base_error, 0.0) for error in options.values()]
            total += np.array(added)[rows[:, column]]
        return total

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(Path(path), self.model_dump())

    @classmethod
    def load(cls, path: Path) -> SwapTable:
        """Read what `save` wrote.

        Raises:
            UserError: no such file, or not a swap table.
        """
        try:
            return cls.model_validate_json(Path(path).read_text())
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read swap table {path}: {reason}; delete it, it is made again") from None


class Additivity(NamedTuple):
    """How measured errors relate to the sums of single-swap errors: quartiles of measured / sum.

    `log_correlation` is Pearson's of the logarithms of positive ones; None, as `kendall`, where a side is constant.
    """

    num_candidates: int
    ratio_quartile1: float
    ratio_median: float
    ratio_quartile3: float
    kendall: float | None
    log_correlation: float | None


def base_candidate(unet: nn.Module, space: SearchSpace) -> Candidate:
    """The candidate of the space nearest to the teacher: its word in each stage that offers it.

    `deep` is `none` where the space offers nothing else.
    """
    from search_spaces.candidate import Candidate
    from search_spaces.surgery import teacher_candidate

    own = teacher_candidate(unet).options
    return Candidate(options={s: own[s] if own[s] in o else o[0] for s, o in space.options.items()})


def swap_table(
    teacher: Teacher,
    space: SearchSpace,
    blocks: Mapping[Block, nn.Module],
    evaluator: PairedEvaluator,
    path: Path,
    on_progress: OnProgress | None = None,
) -> SwapTable:
    """Evaluate the base network and every single swap of it; written to `path` entry by entry.

    Called again it measures only what `path` lacks; a table of other weights or another evaluator is
    made anew.

    Raises:
        FidelityError: the base network itself is not finite.
        UserError: `path` cannot be written.
    """
    from nas.distill.checkpoint import module_digest
    from search_spaces.surgery import assemble

    path = Path(path)
    base = base_candidate(teacher.unet, space)
    digest = module_digest(blocks[block] for block in sorted(blocks))
    key = f"{evaluator.key}-{digest}-{base.id}"
    done = _read_entries(path, key)
    wanted = [(stage, option) for stage in space.stages for option in space.options[stage]]
    swaps = [(stage, option) for stage, option in wanted if base.options[stage] != option]
    for number, entry in enumerate([None, *swaps]):
        name = "base" if entry is None else "/".join(entry)
        if name not in done and entry is not None and entry not in blocks:
            done[name] = "the block was not trained"
        if name not in done:
            network = assemble(teacher.unet, base if entry is None else base.replace(*entry), blocks, copy=False)
            try:
                done[name] = evaluator.evaluate(network).latent_error
            except FidelityError as error:
                if entry is None:
                    raise
                done[name] = str(error)
            write_json(path, {"key": key, "entries": done})
        if on_progress is not None:
            on_progress(number + 1, len(swaps) + 1, f"{name} {_shown(done[name])}")
    base_error = done["base"]
    assert isinstance(base_error, float)
    errors: dict[str, dict[str, float | None]] = {stage: {} for stage in space.stages}
    failed = {}
    for stage, option in wanted:
        value = base_error if base.options[stage] == option else done[f"{stage}/{option}"]
        errors[stage][option] = None if isinstance(value, str) else value
        if isinstance(value, str):
            failed[f"{stage}/{option}"] = value
    table = SwapTable(key=key, base=base.id, base_error=base_error, errors=errors, failed=failed)
    table.save(path)
    return table


def additivity(predicted: npt.ArrayLike, measured: npt.ArrayLike) -> Additivity:
    """Compare measured latent errors (N,) with the prior (N,); entries that are not finite are left out.

    Raises:
        ValueError: no finite pair with a positive prior.
    """
    from scipy.stats import kendalltau

    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(measured, dtype=np.float64)
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0)
    if not keep.any():
        raise ValueError("no candidate with a finite measured error and a positive prior")
    x, y = x[keep], y[keep]
    first, median, third = (float(q) for q in np.quantile(y / x, [0.25, 0.5, 0.75]))
    tau = float(kendalltau(x, y).statistic) if len(x) > 1 else float("nan")
    return Additivity(len(x), first, median, third, tau if np.isfinite(tau) else None, _log_correlation(x, y))


def _log_correlation(x: Floats, y: Floats) -> float | None:
    x, y = np.log(x[y > 0]), np.log(y[y > 0])
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _read_entries(path: Path, key: str) -> dict[str, float | str]:
    """Entries of a table at `path`, finished or not, if they are of this key; else none."""
    try:
        data: Any = json.loads(path.read_text())
        if data["key"] != key:
            return {}
        if "entries" in data:
            found = dict(data["entries"])
            numbers = [value for value in found.values() if not isinstance(value, str)]
            whole = isinstance(found.get("base", 0.0), float) and bool(np.isfinite(numbers).all())
            return found if whole else {}
        table = SwapTable.model_validate(data)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    entries: dict[str, float | str] = {"base": table.base_error, **table.failed}
    for stage, options in table.errors.items():
        entries |= {f"{stage}/{option}": error for option, error in options.items() if error is not None}
    return entries


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
