"""What to measure next on a device: the blocks or whole U-Nets that tell most about all the others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from latency_predictors.models import Inputs, LatencyPrior, propose, propose_for, unlearned_prior
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.options import NONE

if TYPE_CHECKING:
    from latency_predictors.kernel_tables import KernelTables
    from search_spaces.space import SearchSpace

Measure = Literal["blocks", "candidates", "both"]
Criterion = Literal["i_optimal", "d_optimal"]

#: Whole U-Nets to choose among, and those whose latency is wanted: random ones stand for the space.
_NUM_OFFERED = 400
_NUM_TARGETS = 400
_SEED = 0


@dataclass(frozen=True)
class Pool:
    """What can be measured (names with their kernel sums), and the networks whose latency is wanted.

    Names are "base", "E1/RA" or candidate ids. The structure of a block has zeros for the stages that it is not of.
    """

    names: tuple[str, ...]
    inputs: Inputs
    targets: Inputs
    prior: LatencyPrior

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        kernels: KernelTables,
        measure: Measure = "both",
        known: Collection[str] = (),
        offered: Sequence[str] | None = None,
    ) -> Self:
        """The blocks of a space, a sample of its whole U-Nets with the named ones and the two extremes, or both.

        known: subjects that are measured already; they are part of the pool whatever `measure` says.
        offered: ids of the whole U-Nets to choose among, instead of a sample.
        """
        rng = np.random.default_rng(_SEED)
        targets = _networks(space, kernels, space.sample(rng, _NUM_TARGETS))
        parts = _parts(space, kernels)
        if offered is None:
            offered = [*_extremes(space, kernels), *(space.named(n).id for n in space.candidates)]
            offered += [space.decode(row).id for row in space.sample(rng, _NUM_OFFERED)]
        wanted_parts = [name for name in parts if measure != "candidates" or name in known]
        networks = [*(offered if measure != "blocks" else []), *(name for name in known if name not in parts)]
        wanted = list(dict.fromkeys(networks))
        rows = [space.encode(Candidate.from_id(name, space.stages)) for name in wanted]
        whole = _networks(space, kernels, np.array(rows, dtype=np.int64).reshape(len(rows), len(space.sizes)))
        assert whole.structure is not None
        block_sums = np.array([parts[name][0] for name in wanted_parts]).reshape(-1, len(kernels.kernel_names))
        block_rows = np.array([parts[name][1] for name in wanted_parts], dtype=np.int64).reshape(-1, len(space.stages))
        return cls(
            names=(*wanted_parts, *wanted),
            inputs=Inputs(
                np.vstack([block_sums, whole.kernels]),
                kernels.kernel_names,
                np.vstack([block_rows, whole.structure]),
            ),
            targets=targets,
            prior=unlearned_prior(targets),
        )

    def next(self, measured: Collection[str], num: int, criterion: Criterion = "i_optimal") -> list[str]:
        """Names of at most `num` subjects to measure next, the most informative first; fewer where no more are left.

        Raises UserError when one of `measured` is not in the pool.
        """
        at = {name: row for row, name in enumerate(self.names)}
        strange = [name for name in measured if name not in at]
        if strange:
            raise UserError(f"measured: {strange[0]!r} is not among what can be measured; give it as known")
        rows = [at[name] for name in measured]
        num = min(num, len(self.names) - len(set(rows)))
        if criterion == "d_optimal":
            return [self.names[row] for row in propose(self.prior, self.inputs, rows, num)]
        return [self.names[row] for row in propose_for(self.prior, self.targets, self.inputs, rows, num)]


def _parts(space: SearchSpace, kernels: KernelTables) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel sums and structure of the base and of every option that runs something."""
    nowhere = np.zeros(len(space.stages), dtype=np.int64)
    found = {"base": (kernels.base.astype(np.float64), nowhere)}
    for column, stage in enumerate(space.stages):
        for number, option in enumerate(space.options[stage]):
            if option == NONE:
                continue
            structure = nowhere.copy()
            structure[column] = number + 1
            found[f"{stage}/{option}"] = (kernels.stages[stage][number].astype(np.float64), structure)
    return found


def _networks(space: SearchSpace, kernels: KernelTables, matrix: np.ndarray) -> Inputs:
    return Inputs(kernels.of_candidates(space, matrix), kernels.kernel_names, space.stage_rows(matrix) + 1)


def _extremes(space: SearchSpace, kernels: KernelTables) -> list[str]:
    """Ids of the networks with the most and the fewest MACs."""
    macs = [i for i, name in enumerate(kernels.kernel_names) if "_macs@" in name]
    sizes = [kernels.stages[stage][:, macs].sum(1) for stage in space.stages]
    rows = np.array([[int(np.argmax(s)) for s in sizes], [int(np.argmin(s)) for s in sizes]])
    return [space.decode(row).id for row in space.from_stage_rows(rows)]
