"""How well the table of single swaps predicted what a run has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.fidelity.swap import Additivity, additivity

if TYPE_CHECKING:
    from nas.search.store import CandidateStore


def prior_facts(store: CandidateStore) -> Additivity | None:
    """Measured latent error against the sum of single-swap errors; None before a candidate has both."""
    rows, values = store.objectives()
    table = store.table(rows, ["prior"])
    if not len(rows) or "prior" not in table.column_names:
        return None
    try:
        return additivity(table["prior"].to_numpy(zero_copy_only=False), values[:, 0])
    except ValueError:  # no finite sum among them
        return None
