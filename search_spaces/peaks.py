"""Peak activation memory of assembled U-Nets, exactly, from small tables.

While one stage runs, two kinds of activations are alive: those that the stage handles, and those that wait
for a decoder stage further on (skips, and what entered an encoder stage). What waits depends on what the encoder
stage gives and on what the decoder stage of the same level reads, never on more. So with

* inside(S): most elements alive of what stage S handles while it runs: of E_i by (option, what D_i reads); of D_i
  by (option, which skips of E_i are one tensor); of ``deep`` by (option, whether its input is read again),
* waiting(i): elements that level i leaves for D_i, by (which skips of E_i are one tensor, what D_i reads),

a candidate's peak is the largest of inside(E_i) + waiting(1) + ... + waiting(i-1), the same of D_i, and inside(deep)
with all levels waiting; the network's own inputs live throughout and are added to all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.layer_traces import StageCost
from search_spaces.liveness import AFTER, BEFORE, Life, merged
from search_spaces.options import DEEP
from search_spaces.space import Indices

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class _Level:
    """Tables of encoder stage E_i and decoder stage D_i.

    Attributes:
        gives: (E options,) number of the pattern in which its skips share storage.
        reads: (D options,) number of the set of tensors that it reads.
        encoder: (E options, sets) inside of E_i.
        decoder: (2, patterns, D options) inside of D_i; [1] where its input is the last skip, ``deep`` being dropped.
        waiting: (patterns, sets) elements left for D_i while later stages run; without the last skip at the last
            level, where it is the input of ``deep``.
        last_skip: (patterns, sets) elements of the last skip if D_i reads it, at the last level; else 0.
    """

    gives: IntArray
    reads: IntArray
    encoder: IntArray
    decoder: IntArray
    waiting: IntArray
    last_skip: IntArray


@dataclass(frozen=True)
class UNetPeaks:
    """Peaks of all U-Nets of a space; see the module's text for the rule."""

    columns: Mapping[str, int]
    levels: tuple[_Level, ...]
    deep: IntArray
    """(2, deep options) inside of ``deep``; [1] where its input is read again."""
    deep_is_dropped: IntArray
    """(deep options,) 1 or 0."""
    head: int
    """Most elements alive before the first stage or after the last."""
    network_inputs: int

    @classmethod
    def of(
        cls, stages: Sequence[str], costs: Mapping[str, Sequence[StageCost]], head: int, network_inputs: int
    ) -> UNetPeaks:
        """Fill the tables.

        Args:
            stages: the U-Net's stages, in order; their positions are the columns of :meth:`elements`' argument.
            costs: cost of every option, by stage. Inputs of E_i and ``deep`` are h, time embedding, text; of D_i
                h, skips of E_i last to first, what entered E_i, time embedding, text.
            head: most elements alive before the first stage or after the last, network inputs left out.
            network_inputs: elements of the network's inputs.
        """
        num_levels = len(stages) // 2
        deep = [cost.liveness for cost in costs[DEEP]]
        return cls(
            columns={stage: column for column, stage in enumerate(stages)},
            levels=tuple(_level(i, num_levels, costs[f"E{i}"], costs[f"D{i}"]) for i in range(1, num_levels + 1)),
            deep=np.array([
                [part.peak([_kept(part.inputs[0], again), _through(part.inputs[1]), *map(_through, part.outputs)])
                 for part in deep]
                for again in (False, True)
            ], dtype=np.int64),
            deep_is_dropped=np.array([not len(part.inside) for part in deep], dtype=np.int64),
            head=head,
            network_inputs=network_inputs,
        )  # fmt: skip

    def elements(self, rows: Indices) -> IntArray:
        """Peak activation elements (N,) of U-Nets given as option numbers (N, stages)."""
        peak = np.full(len(rows), self.head, dtype=np.int64)
        waiting = np.zeros(len(rows), dtype=np.int64)
        deep = rows[:, self.columns[DEEP]]
        dropped = self.deep_is_dropped[deep]
        for number, level in enumerate(self.levels, start=1):
            encoder, decoder = rows[:, self.columns[f"E{number}"]], rows[:, self.columns[f"D{number}"]]
            gives, reads = level.gives[encoder], level.reads[decoder]
            is_input = dropped if number == len(self.levels) else 0
            inside = np.maximum(level.encoder[encoder, reads], level.decoder[is_input, gives, decoder])
            np.maximum(peak, waiting + inside, out=peak)
            waiting += level.waiting[gives, reads]
            if number == len(self.levels):
                again = (level.last_skip[gives, reads] > 0).astype(np.int64)
                np.maximum(peak, waiting + self.deep[again, deep], out=peak)
        return peak + self.network_inputs


def _kept(life: Life, kept: bool) -> Life:
    return life._replace(last=AFTER) if kept else life


def _through(life: Life) -> Life:
    """Alive from its birth, or throughout if it is an input, to the end of the stage and beyond."""
    return life._replace(last=AFTER)


def _level(number: int, num_levels: int, encoders: Sequence[StageCost], decoders: Sequence[StageCost]) -> _Level:
    is_last = number == num_levels
    num_skips = len(decoders[0].liveness.inputs) - 4  # h, what entered, time embedding, text
    patterns: dict[tuple[int, ...], int] = {}
    gives = [patterns.setdefault(_pattern(e.liveness.output_group[:num_skips]), len(patterns)) for e in encoders]
    sets: dict[tuple[bool, ...], int] = {}
    reads = [sets.setdefault(_reads(d), len(sets)) for d in decoders]
    size = encoders[0].liveness.outputs[0].size
    entered_size = encoders[0].liveness.inputs[0].size
    waiting = np.zeros((len(patterns), len(sets)), dtype=np.int64)
    last_skip = np.zeros_like(waiting)
    for pattern, row in patterns.items():
        for read, column in sets.items():
            *skips, entered = read
            groups = {pattern[i] for i in range(num_skips) if skips[i]}
            if is_last and pattern[-1] in groups:
                groups.remove(pattern[-1])
                last_skip[row, column] = size
            waiting[row, column] = size * len(groups) + entered_size * entered
    return _Level(
        gives=np.array(gives, dtype=np.int64),
        reads=np.array(reads, dtype=np.int64),
        encoder=np.array([[_encoder(e, read, is_last) for read in sets] for e in encoders], dtype=np.int64),
        decoder=np.array(
            [[[_decoder(d, p, dropped, number == 1) for d in decoders] for p in patterns] for dropped in (False, True)],
            dtype=np.int64,
        ),
        waiting=waiting,
        last_skip=last_skip,
    )


def _pattern(groups: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of activations as numbers from 0 in order of appearance: (7, 7, 9) is (0, 0, 1)."""
    order = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    return tuple(order[group] for group in groups)


def _reads(decoder: StageCost) -> tuple[bool, ...]:
    """Which skips of the encoder stage, first to last, a decoder option reads, and whether what entered it."""
    *skips, entered = (life.last > BEFORE for life in decoder.liveness.inputs[1:-2])
    return (*reversed(skips), entered)


def _encoder(encoder: StageCost, read: tuple[bool, ...], is_last: bool) -> int:
    part = encoder.liveness
    *skips, entered = read
    lives = [_kept(part.inputs[0], entered), _through(part.inputs[1])]
    # The last skip is what goes on, to ``deep``, where there is no downsampler.
    needed = [read or (is_last and i == len(skips) - 1) for i, read in enumerate(skips)]
    by_group: dict[int, list[Life]] = {}
    for output, group, need in zip(part.outputs, part.output_group, [*needed, True], strict=False):
        by_group.setdefault(group, []).append(_kept(output, need))
    return part.peak([*lives, *(merged(same) for same in by_group.values())])


def _decoder(decoder: StageCost, pattern: tuple[int, ...], deep_is_dropped: bool, is_final: bool) -> int:
    part = decoder.liveness
    h, *skips, entered, temb, _text = part.inputs
    by_group: dict[int, list[Life]] = {}
    for life, group in zip(reversed(skips), pattern, strict=True):
        by_group.setdefault(group, []).append(life)
    if deep_is_dropped:
        by_group[pattern[-1]].append(h)
    else:
        by_group[-1] = [h]
    lives = [merged(same) for same in by_group.values()]
    return part.peak([*lives, entered, _kept(temb, not is_final), *map(_through, part.outputs)])
