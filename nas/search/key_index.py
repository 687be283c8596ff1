"""The last row of each key of a growing column: 16 bytes a key, however many there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Keys = NDArray[np.uint64]

MAX_RECENT = 20_000


class KeyIndex:
    """Maps 64-bit keys to the largest row that has them; rows are added in growing order.

    Settled keys stand in a sorted array (found in O(log n)), the latest ones in a dict that is merged into it when it
    is full: the merge is O(n log n), once in MAX_RECENT or n / 8 additions, so that adding is amortised O(log n).
    """

    def __init__(self) -> None:
        self._keys: Keys = np.empty(0, np.uint64)
        self._rows: Rows = np.empty(0, np.int64)
        self._pending: list[tuple[Keys, Rows]] = []
        self._recent: dict[int, int] = {}

    def add(self, key: int, row: int) -> None:
        """Add one row, larger than all before."""
        self._recent[key] = row
        if len(self._recent) > max(MAX_RECENT, len(self._keys) // 8):
            self._settle()

    def extend(self, keys: Keys, first_row: int) -> None:
        """Add the rows `first_row`, `first_row` + 1 ... of `keys` (N,)."""
        self._flush()
        self._pending.append((keys, np.arange(first_row, first_row + len(keys), dtype=np.int64)))

    def find(self, key: int) -> int | None:
        """The last row of a key."""
        row = self._recent.get(key)
        if row is not None:
            return row
        if self._pending:
            self._settle()
        place = int(np.searchsorted(self._keys, np.uint64(key)))
        if place < len(self._keys) and int(self._keys[place]) == key:
            return int(self._rows[place])
        return None

    def rows(self) -> Rows:
        """The last row of every key (N,), in growing order; O(n log n)."""
        self._settle()
        return np.sort(self._rows)

    def _flush(self) -> None:
        if self._recent:
            keys = np.fromiter(self._recent.keys(), np.uint64, len(self._recent))
            self._pending.append((keys, np.fromiter(self._recent.values(), np.int64, len(self._recent))))
            self._recent = {}

    def _settle(self) -> None:
        self._flush()
        if not self._pending:
            return
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        rows = np.concatenate([self._rows, *(rows for _, rows in self._pending)])
        self._pending = []
        order = np.lexsort((rows, keys))
        keys, rows = keys[order], rows[order]
        last = np.append(keys[1:] != keys[:-1], np.ones(min(len(keys), 1), bool))
        self._keys, self._rows = keys[last], rows[last]
