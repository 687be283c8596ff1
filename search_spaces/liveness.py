"""Which activations are alive at which operator, and how much memory that takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search_spaces.tracing import Trace

BEFORE = -1
"""Birth of what exists before the first operator, and last use of what no operator reads."""
AFTER = 2**31 - 1
"""Last use of what is read later, by something else."""


class Life(NamedTuple):
    """One activation: elements, the operator that makes it, and the last one that reads it."""

    size: int
    birth: int
    last: int


@dataclass(frozen=True)
class Liveness:
    """Lives of the activations of a part of a network.

    An activation lives from the operator that makes it to the last one that reads it, both included; views
    count as what they look into. What is made and read only inside the part is summed once and for all; how
    long its inputs and outputs live depends on what is around it, so :meth:`peak` is told.

    Attributes:
        inside: (operators,) elements alive of what is neither input nor output.
        inputs: each input with the last operator that reads it.
        outputs: each output with the operator that makes it and the last one inside that reads it; an output that
            is an input is given as that.
        output_group: number of the activation behind each output; equal where outputs share one.
    """

    inside: NDArray[np.int64]
    inputs: tuple[Life, ...]
    outputs: tuple[Life, ...]
    output_group: tuple[int, ...]

    @classmethod
    def of(cls, trace: Trace) -> Liveness:
        """Lives of the activations of a trace."""
        births = dict.fromkeys(trace.inputs, BEFORE)
        last: dict[int, int] = {}
        for number, step in enumerate(trace.steps):
            for activation in step.reads:
                last[activation] = number
            for activation in step.writes:
                births.setdefault(activation, number)
                last[activation] = number
        lives = {a: Life(trace.sizes[a], birth, last.get(a, BEFORE)) for a, birth in births.items()}
        outside = {*trace.inputs, *trace.outputs}
        inside = alive((life for a, life in lives.items() if a not in outside), len(trace.steps))
        return cls(inside, tuple(lives[a] for a in trace.inputs), tuple(lives[a] for a in trace.outputs), trace.outputs)

    def peak(self, lives: Iterable[Life]) -> int:
        """Most elements alive at any operator of the part; 0 if it has none.

        Args:
            lives: of inputs and outputs, and of whatever else lives while the part runs; operators are counted as
                in the part. What shares storage is to be given once: see :func:`merged`.
        """
        if not len(self.inside):
            return 0
        return int((self.inside + alive(lives, len(self.inside))).max())


def merged(lives: Iterable[Life]) -> Life:
    """The one life of activations that are the same."""
    every = list(lives)
    return Life(every[0].size, min(life.birth for life in every), max(life.last for life in every))


def alive(lives: Iterable[Life], num_steps: int) -> NDArray[np.int64]:
    """Elements (num_steps,) alive at every operator."""
    change = np.zeros(num_steps + 1, dtype=np.int64)
    for size, birth, last in lives:
        if last >= 0:
            change[max(birth, 0)] += size
            change[min(last + 1, num_steps)] -= size
    return np.cumsum(change[:-1])
