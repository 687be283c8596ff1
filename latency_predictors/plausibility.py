"""Measurements that no device can have: rows in the wrong order, one latency for all, parts that dwarf the whole.

A fit takes such rows without complaint. What is looked for is gross, so that no real device raises a remark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latency_predictors.models.base import group_sums
from latency_predictors.subject_names import BASE, option_subject
from search_spaces.candidate import Candidate
from search_spaces.options import NONE

if TYPE_CHECKING:
    from latency_predictors.kernel_tables import KernelTables
    from latency_predictors.training import Training
    from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]
#: Of two graphs the larger one: by this factor, if it also has no less of any kernel or there are enough pairs whose
#: majority decides; else by the other, since a device may be good at just what the larger one has more of.
_CLEARLY, _TWICE = 1.25, 2.0
_ENOUGH_PAIRS = 4
#: By so much the larger one is faster before it counts: measurements repeat within a few per cent.
_FASTER = 1.1
#: Latencies within so much of one another are one latency; two are by chance.
_ALIKE = 1.001
#: The parts of a network against the whole: calls cost a part something each, and fusion across parts saves something.
_PARTS_FACTOR = 2.0
#: So many rows are compared with one another at most.
_MOST_ROWS = 300


def implausible(space: SearchSpace, kernels: KernelTables, training: Training) -> tuple[str, ...]:
    """One line for each thing that is wrong with the timings as a whole; none where they can be a device's.

    kernels: kernel sums of the options of `space`, of which the timings are.
    """
    sums_of = {BASE: kernels.base.astype(np.float64)} | {
        option_subject(stage, option): kernels.stages[stage][row].astype(np.float64)
        for stage in space.stages
        for row, option in enumerate(space.options[stage])
        if option != NONE
    }
    found = []
    parts = {name: timing.latency_ms for name, timing in training.parts.items()}
    networks = {name: timing.latency_ms for name, timing in training.networks.items()}
    parts_of = {name: _parts_of(name, space) for name in networks}
    sums = {name: np.sum([sums_of[part] for part in own], axis=0) for name, own in parts_of.items()}
    for what, latency_ms, size in (("whole U-Nets", networks, sums), ("stage options", parts, sums_of)):
        if len(latency_ms) > 1:
            rows = np.array([size[name] for name in latency_ms])
            found += _order(
                what, size is sums, list(latency_ms), np.array(list(latency_ms.values())), rows, kernels.kernel_names
            )
    found += _wholes(parts, networks, parts_of)
    return tuple(found)


def _parts_of(network: str, space: SearchSpace) -> list[str]:
    chosen = Candidate.from_id(network, space.stages).options
    return [BASE, *(option_subject(stage, option) for stage, option in chosen.items() if option != NONE)]


def _order(
    what: str, is_whole: bool, names: list[str], latency_ms: Floats, sums: Floats, kernel_names: tuple[str, ...]
) -> list[str]:
    """Whether latencies are all one, or fall with the size of the graphs, whose kernel sums are (N, K)."""
    if len(names) > _MOST_ROWS:
        kept = np.linspace(0, len(names) - 1, _MOST_ROWS).astype(int)
        names, latency_ms, sums = [names[i] for i in kept], latency_ms[kept], sums[kept]
    groups = group_sums(kernel_names, sums)[1]
    typical = groups.mean(0)
    if not (typical > 0).any():  # a profile of the first format has no kernel sums
        return []
    size = (groups[:, typical > 0] / typical[typical > 0]).mean(1)
    tolerance = _ALIKE if len(names) > 2 else 1.0
    if latency_ms.max() <= tolerance * latency_ms.min() and size.max() >= _CLEARLY * size.min():
        return [
            f"all {len(names)} {what} take {latency_ms[0]:.4g} ms, of which the largest computes "
            f"{size.max() / size.min():.1f} times as much as the smallest: look whether each row has its own latency"
        ]
    ratio = size[:, None] / size[None]
    has_more = (sums[:, None] >= sums[None]).all(2)
    is_larger = has_more & (ratio >= _CLEARLY)
    if is_whole:  # parts of different stages run at different rates, however many there are
        is_clear = ratio >= _CLEARLY
        is_larger |= is_clear if is_clear.sum() >= _ENOUGH_PAIRS else ratio >= _TWICE
    gain = latency_ms[None] / latency_ms[:, None]
    is_wrong = is_larger & (gain > _FASTER)
    num, num_wrong = int(is_larger.sum()), int(is_wrong.sum())
    if 2 * num_wrong <= num or (not is_whole and num < _ENOUGH_PAIRS):
        return []
    large, small = np.unravel_index(int(np.argmax(np.where(is_wrong, gain, 0.0))), gain.shape)
    return [
        f"in {num_wrong} of {num} pairs of {what} the larger is the faster one: {names[large]} computes "
        f"{ratio[large, small]:.1f} times as much as {names[small]} and takes {latency_ms[large]:.4g} ms against "
        f"{latency_ms[small]:.4g}: look whether rows are swapped, or the column is no latency"
    ]


def _wholes(parts: Mapping[str, float], networks: Mapping[str, float], parts_of: Mapping[str, list[str]]) -> list[str]:
    """Whether parts add up to something else than the networks that they are of.

    Parts that were not measured can only add to the sum, so that a sum which is too large is so without them.
    """
    ratios: dict[str, float] = {}
    for name, whole_ms in networks.items():
        total = sum(parts.get(part, 0.0) for part in parts_of[name])
        is_complete = all(part in parts for part in parts_of[name])
        if is_complete or total > _PARTS_FACTOR * whole_ms:
            ratios[name] = total / whole_ms
    if not ratios:
        return []
    middle = float(np.median(list(ratios.values())))
    if 1 / _PARTS_FACTOR <= middle <= _PARTS_FACTOR:
        return []
    name = min(ratios, key=lambda each: abs(np.log(ratios[each] / middle)))
    return [
        f"the parts of {name} take {ratios[name] * networks[name]:.4g} ms in all, the U-Net itself "
        f"{networks[name]:.4g} (a factor of {max(middle, 1 / middle):.1f} in the middle of {len(ratios)} U-Nets): look "
        "whether parts and U-Nets are of one unit, precision and device"
    ]
