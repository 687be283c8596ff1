"""Candidates as points: what a kernel measures distances in.

A feature group is some columns whose squared distance means one thing: whether decisions differ, how far apart their
values are in order, how different a known cost is. Every group is scaled so that two random candidates are 1 apart on
average (squared), so that weights of different groups, and of different spaces, can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.search.decisions import DecisionSpace, Indices

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Columns of the feature matrix that share one meaning."""

    name: str
    columns: slice


class Features:
    """Feature matrix (N, columns) of candidates.

    Groups, in order: `category` (one-hot: half the squared distance counts differing decisions), `order`
    (thermometer code: the squared distance is the number of steps between values, for decisions of three values or
    more), one `cost<k>` for each known cost (its logarithm, where it is positive and spans more than a factor of 1.5),
    then one `given<k>` for each further column.

    Args:
        space: of the candidates.
        sample: candidates (M, decisions) by which groups are centred and scaled.
        costs: (M, costs) of the sample.
        given: (M, further) other numbers known of each, such as a predicted error.
    """

    def __init__(self, space: DecisionSpace, sample: Indices, costs: Floats, given: Floats | None = None) -> None:
        self._sizes = space.sizes
        self._logarithmic = _spans(costs)
        self._least = costs.min(axis=0) / 1000  # beyond the sample there may be zeros
        self._given_logarithmic, self._given_range = None, None
        if given is not None:
            # What has no finite prediction counts as the worst.
            finite = np.where(np.isfinite(given), given, np.nan)
            self._given_range = np.nanmin(finite, axis=0), np.nanmax(finite, axis=0)
            given = self._clipped(given)
            self._given_logarithmic = _spans(given)
        raw, widths = self._raw(sample, costs, given)
        self.groups: tuple[Group, ...] = ()
        columns = 0
        scales = []
        for name, width in widths:
            part = raw[:, columns : columns + width]
            spread = 2.0 * float(part.var(axis=0).sum())
            scales.append(np.full(width, 1.0 / np.sqrt(spread) if spread > 1e-24 else 0.0))
            self.groups += (Group(name, slice(columns, columns + width)),)
            columns += width
        self._center = raw.mean(axis=0)
        self._scale = np.concatenate(scales)

    def __call__(self, matrix: Indices, costs: Floats, given: Floats | None = None) -> Floats:
        """Features (N, columns) of index vectors (N, decisions) with their costs (N, costs)."""
        raw, _ = self._raw(matrix, costs, given)
        raw -= self._center
        raw *= self._scale
        return raw

    def _raw(self, matrix: Indices, costs: Floats, given: Floats | None) -> tuple[Floats, list[tuple[str, int]]]:
        parts: list[Any] = []
        free = [i for i, size in enumerate(self._sizes) if size > 1]
        ordered = [i for i in free if self._sizes[i] > 2]
        parts += [matrix[:, [i]] == np.arange(self._sizes[i]) for i in free]
        parts += [matrix[:, [i]] > np.arange(self._sizes[i] - 1) for i in ordered]
        widths = [("category", sum(self._sizes[i] for i in free))]
        if ordered:
            widths.append(("order", sum(self._sizes[i] - 1 for i in ordered)))
        for k in range(costs.shape[1]):
            column = costs[:, [k]]
            parts.append(np.log(np.maximum(column, self._least[k])) if self._logarithmic[k] else column)
            widths.append((f"cost{k}", 1))
        if given is not None and self._given_logarithmic is not None:
            given = self._clipped(given)
            for k in range(given.shape[1]):
                column = given[:, [k]]
                parts.append(np.log(column) if self._given_logarithmic[k] else column)
                widths.append((f"given{k}", 1))
        return np.concatenate(parts, axis=1, dtype=np.float64), widths

    def _clipped(self, given: Floats) -> Floats:
        assert self._given_range is not None
        low, high = self._given_range
        return np.clip(np.where(np.isnan(given), high, given), low, high)


def _spans(values: Floats) -> Sequence[bool]:
    """Whether each column is positive and spans enough for a logarithm to matter."""
    low, high = values.min(axis=0), values.max(axis=0)
    return [bool(a > 0 and b > 1.5 * a) for a, b in zip(low, high, strict=True)]
