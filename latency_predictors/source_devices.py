"""Other devices that a predictor transfers from, kept as sums over parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latency_predictors.latency_table import LatencyTable
from latency_predictors.profile_records import SourceDevice
from search_spaces.errors import UserError
from search_spaces.space import Indices, SearchSpace

_NUM_ROWS = 1000
#: Whole networks that weigh other devices against measured blocks: the error of one of them, predicted from one other,
#: is little to go by, but the devices were given to be used.
_LEAST_TO_WEIGH = 2


def check_enough(sources: Mapping[str, LatencyTable], num_parts: int, num_networks: int) -> None:
    """UserError unless enough whole networks scale the sources, or weigh them against blocks: they are not dropped."""
    needed = _LEAST_TO_WEIGH if num_parts else 1
    if sources and num_networks < needed:
        raise UserError(
            f"sources {', '.join(sources)}: {num_networks} whole networks and {num_parts} blocks are measured on the "
            f"device itself; other devices are used with at least {needed} whole network{'s' if needed > 1 else ''}: "
            "measure those, or leave the sources out"
        )


def source_device(name: str, table: LatencyTable, space: SearchSpace) -> SourceDevice:
    """The sum over parts that is nearest to a table's latencies, in ms.

    Least squares in relative error over random candidates, with parts of 0 ms at least, so that no sum is below. NPU
    tables of U-Nets are such sums and come out exactly; so do additive profiles whose curve is a line through the
    origin. A negative intercept or a power law bends the sums: 2 % in the mean at an exponent of 0.9
    (tests/latency_predictors/test_fitting.py bounds it), which is little beside what two devices differ by.
    """
    from scipy.optimize import nnls

    if table.space.options != space.options:
        raise UserError(
            f"source {name!r}: its table is of search space {table.space.name!r}, needed is {space.name!r}; "
            "tabulate it for that"
        )
    matrix = space.sample(np.random.default_rng(0), _NUM_ROWS)
    latency_ms = table.latency_ms(matrix)
    columns = _one_hot(space, space.stage_rows(matrix))
    values = nnls(columns / latency_ms[:, None], np.ones(len(columns)))[0]
    ends = 1 + np.cumsum(space.stage_sizes)
    return SourceDevice(
        device=name,
        base_ms=float(values[0]),
        options_ms={
            stage: dict(zip(options, values[end - len(options) : end].tolist(), strict=True))
            for (stage, options), end in zip(space.options.items(), ends, strict=True)
        },
    )


def source_sums(sources: tuple[SourceDevice, ...], space: SearchSpace, rows: Indices) -> np.ndarray:
    """Latencies in ms (N, sources) of option numbers (N, stages)."""
    values = [
        np.array([s.base_ms, *(s.options_ms[stage][o] for stage in space.stages for o in space.options[stage])])
        for s in sources
    ]
    return _one_hot(space, rows) @ np.array(values).reshape(len(sources), -1).T


def _one_hot(space: SearchSpace, rows: Indices) -> np.ndarray:
    starts = 1 + np.cumsum([0, *space.stage_sizes[:-1]])
    columns = np.zeros((len(rows), 1 + sum(space.stage_sizes)))
    columns[:, 0] = 1.0
    columns[np.arange(len(rows))[:, None], rows + starts] = 1.0
    return columns
