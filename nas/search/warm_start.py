"""The first candidates of a sweep: the front as it is predicted before anything was evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.pareto import ObjectiveScale, front
from nas.search.settings import Indices, table_or_sample
from search_spaces.space import SearchSpace


def warm_start(
    space: SearchSpace,
    prior: Callable[[Indices], Any],
    latency_ms: Callable[[Indices], Any],
    num_params: Callable[[Indices], Any],
    num: int,
    feasible: Callable[[Indices], NDArray[np.bool_]] | None = None,
    seed: int = 0,
) -> Indices:
    """A spread of `num` candidates (num, stages) of the predicted front, the two ends of the space first.

    Row 0 is the largest candidate (most parameters: in the presets the teacher's words in every stage), row 1 the
    shortest (fewest parameters). The others are taken one after the other from the predicted front over (prior
    error, latency, parameters), each the one farthest from those taken so far in scaled objectives (maximin, error
    in decades; see :mod:`nas.pareto`), so that every prefix is spread over the front. Over spaces of more than about
    a million candidates the front is that of a random sample of 100,000.

    Args:
        prior: predicted error (N,) of index matrices (N, stages).
        latency_ms: predicted latency (N,).
        num_params: parameters (N,).
        num: number of candidates; fewer are returned if the predicted front has fewer.
        feasible: mask (N,); the spread is chosen among feasible candidates, the two ends are given anyway.
        seed: of the sample.
    """
    matrix = table_or_sample(space, seed)
    columns = [np.asarray(f(matrix), dtype=np.float64) for f in (prior, latency_ms, num_params)]
    values = np.stack(columns, axis=1)
    # Ties by the predicted error, then by latency, make the ends definite.
    ends = [
        int(np.lexsort((values[:, 1], values[:, 0], -values[:, 2]))[0]),
        int(np.lexsort((values[:, 0], values[:, 1], values[:, 2]))[0]),
    ]
    chosen = list(dict.fromkeys(ends))[:num]
    allowed = np.arange(len(matrix)) if feasible is None else np.flatnonzero(feasible(matrix))
    # An option that could not be evaluated has no finite prior; candidates with it are left to the sampler.
    allowed = allowed[np.isfinite(values[allowed]).all(axis=1)]
    rows = allowed[front(values[allowed])]
    rows = rows[~np.isin(rows, chosen)]
    if len(rows) and len(chosen) < num:
        finite = np.where(np.isfinite(values), values, values[rows].max(axis=0))
        unit = ObjectiveScale.of(finite).unit(finite)
        distance = np.linalg.norm(unit[rows, None] - unit[None, chosen], axis=2).min(axis=1)
        while len(chosen) < num and len(rows) and distance.max() > -1:
            best = int(np.argmax(distance))
            chosen.append(int(rows[best]))
            distance = np.minimum(distance, np.linalg.norm(unit[rows] - unit[rows[best]], axis=1))
            distance[best] = -1  # taken
    return matrix[chosen]
