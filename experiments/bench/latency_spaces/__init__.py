"""Search spaces of public latency tables: how their rows are read, and their analytic kernel sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from experiments.bench.latency_spaces import fbnet, nasbench201
from latency_predictors.models.base import Array, Digits

SpaceName = Literal["fbnet", "nasbench201"]


@dataclass(frozen=True)
class LatencySpace:
    """One table's architecture column, its reader, its kernel sums, and HELP's split of the rows.

    read: texts of N rows -> structure (N, D); kernels: structure -> (N, K) sums.
    The first `num_pool` rows are the pool, the next `num_test` the test.
    """

    column: str
    num_options: int
    read: Callable[[Sequence[str]], Digits]
    kernels: Callable[[Digits], Array]
    kernel_names: tuple[str, ...]
    num_pool: int
    num_test: int


SPACES: dict[SpaceName, LatencySpace] = {
    "fbnet": LatencySpace("ops", fbnet.NUM_OPTIONS, fbnet.read, fbnet.kernels, fbnet.KERNEL_NAMES, 4000, 1000),
    "nasbench201": LatencySpace(
        "arch", nasbench201.NUM_OPTIONS, nasbench201.read, nasbench201.kernels, nasbench201.KERNEL_NAMES, 900, 1000
    ),
}
