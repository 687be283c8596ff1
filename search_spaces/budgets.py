"""Candidates within budgets from spaces too large to list; see :func:`search_spaces.sampling.sample_within`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.bounded_counts import MAX_BUDGETS, BoundedCounts
from search_spaces.errors import UserError
from search_spaces.feasible import Rows, first_within, solve, sweep, walk_down
from search_spaces.space import Indices, SearchSpace
from search_spaces.vae_option import STEPS

Cost: TypeAlias = Callable[[Indices], NDArray[np.floating] | NDArray[np.integer]]
"""Index matrix (N, decisions) to a cost (N,), such as ``CostTable.params``."""
Tables: TypeAlias = list[NDArray[np.float64]]

_PROBES = 256
_BATCH = 8192
_MAX_PROPOSALS = 65_536
_MIN_ACCEPTED = 1 / 1000
_CHAINS = 64
_BURN_IN, _THINNING = 24, 3


@dataclass(frozen=True)
class _Stratum:
    """The candidates with one number of steps: among them costs of pipelines, too, add up over stages.

    Attributes:
        choices: per stage the option numbers that may be taken.
        tables: by cost that adds up, per stage (choices,) what each choice adds.
    """

    choices: list[NDArray[np.int64]]
    tables: dict[str, Tables]

    def stacked(self, names: list[str]) -> Tables:
        """Per stage (choices, names)."""
        return [
            np.stack([self.tables[name][stage] for name in names], axis=1) if names else np.zeros((len(choices), 0))
            for stage, choices in enumerate(self.choices)
        ]

    def rows(self, chosen: NDArray[np.int64]) -> Rows:
        """Option numbers (N, stages) of positions (N, stages) in the choices."""
        return np.stack([choices[chosen[:, i]] for i, choices in enumerate(self.choices)], axis=1)


class BudgetedSampler:
    """Uniform sampling of candidates whose costs are all within budgets.

    Args:
        space: any size.
        costs: by name, for each of the limits.
        limits: largest legal value by name, finite.
    """

    def __init__(self, space: SearchSpace, costs: Mapping[str, Cost], limits: Mapping[str, float]) -> None:
        self._space, self._costs, self._limits = space, costs, limits
        self._least = dict.fromkeys(limits, np.inf)
        every = [np.arange(size) for size in space.stage_sizes]
        steps = space.stages.index(STEPS) if STEPS in space.stages else None
        fixed = [every]
        if steps is not None:
            fixed = [[*every[:steps], number, *every[steps + 1 :]] for number in every[steps].reshape(-1, 1)]
        self._strata = [_Stratum(choices, self._tables(choices)) for choices in fixed]
        self._additive = [name for name in limits if all(name in stratum.tables for stratum in self._strata)]
        for name in self._additive:
            sums = [sum(table.min() for table in stratum.tables[name]) for stratum in self._strata]
            self._least[name] = float(min(sums))

    def sample(self, rng: np.random.Generator, num: int) -> Indices:
        """Candidates (num, decisions), canonical.

        Raises:
            UserError: no candidate is within the budgets, or none was found.
        """
        counted = self._tightest(rng)
        counts = [
            BoundedCounts.of(stratum.stacked(counted), np.array([self._limits[name] for name in counted]))
            for stratum in self._strata
        ]
        totals = np.array([each.total for each in counts])
        if not totals.any():
            raise self._unmet()
        accepted = [np.zeros((0, len(self._space.stages)), dtype=np.int64)]
        num_accepted = tried = 0
        while num_accepted < num and (tried < _MAX_PROPOSALS or num_accepted >= tried * _MIN_ACCEPTED):
            proposed = self._propose(rng, counts, totals / totals.sum())
            good = proposed[self._beyond(proposed) == 0]
            accepted.append(good)
            num_accepted, tried = num_accepted + len(good), tried + len(proposed)
        rows = np.concatenate(accepted)
        if num_accepted < num:
            rows = self._from_chains(rng, num, rows if len(rows) else self._starts(rng, proposed))
        return self._space.from_stage_rows(rows[:num])

    def _tables(self, choices: list[NDArray[np.int64]]) -> dict[str, Tables]:
        """What each choice adds, by cost that is the sum of what its stages add."""
        rng = np.random.default_rng(0)  # which candidates probe a cost does not change what is drawn
        probes = [rng.integers(0, len(each), size=_PROBES) for each in choices]
        first = np.array([each[0] for each in choices])
        one_off = []
        for stage, each in enumerate(choices):
            rows = np.tile(first, (len(each), 1))
            rows[:, stage] = each
            one_off.append(rows)
        ends = np.cumsum([len(each) for each in choices])[:-1]
        found: dict[str, Tables] = {}
        for name in self._limits:
            base = self._cost(name, first[None])[0]
            tables = [values - base for values in np.split(self._cost(name, np.concatenate(one_off)), ends)]
            tables[0] = tables[0] + base
            true = self._cost(name, np.stack([each[p] for each, p in zip(choices, probes, strict=True)], axis=1))
            sums = sum(table[p] for table, p in zip(tables, probes, strict=True))
            if np.allclose(sums, true, rtol=1e-9, atol=1e-9 * float(np.abs(true).max())):
                found[name] = tables
        return found

    def _tightest(self, rng: np.random.Generator) -> list[str]:
        """The additive costs to count by: those that the fewest candidates meet, as many as counting can take."""
        rows = rng.integers(0, self._space.stage_sizes, size=(_PROBES, len(self._space.stages)))
        met = {name: float((self._cost(name, rows) <= self._limits[name]).mean()) for name in self._additive}
        return sorted(met, key=met.__getitem__)[:MAX_BUDGETS]

    def _propose(self, rng: np.random.Generator, counts: list[BoundedCounts], shares: NDArray[np.float64]) -> Rows:
        numbers = rng.multinomial(_BATCH, shares)
        drawn = [s.rows(c.sample(rng, n)) for s, c, n in zip(self._strata, counts, numbers, strict=True)]
        rows: Rows = rng.permutation(np.concatenate(drawn))
        return rows

    def _starts(self, rng: np.random.Generator, proposed: Rows) -> Rows:
        """Some candidates (M, stages) within all budgets."""
        limits = np.array([self._limits[name] for name in self._additive])
        solved = []
        for stratum in self._strata:
            beyond = partial(self._beyond_additive, stratum)
            answer = first_within(stratum.stacked(self._additive), limits, beyond)
            if answer is not None:
                solved.append(stratum.rows(answer[None]))
        if not solved:
            raise self._unmet()
        rows = np.concatenate([*solved, proposed[: _CHAINS - len(solved)]])
        found = walk_down(rows, self._space.stage_sizes, self._beyond, rng)
        if not len(found):
            raise unmet(self._space, self._limits, self._least, {}, certain=False)
        return found

    def _from_chains(self, rng: np.random.Generator, num: int, starts: Rows) -> Rows:
        chains = starts[rng.integers(0, len(starts), size=min(_CHAINS, num))]
        sizes, drawn = self._space.stage_sizes, []
        for _ in range(_BURN_IN):
            sweep(chains, sizes, self._beyond, rng)
        for _ in range(-(-num // len(chains))):
            for _ in range(_THINNING):
                sweep(chains, sizes, self._beyond, rng)
            drawn.append(chains.copy())
        return np.concatenate(drawn)

    def _cost(self, name: str, rows: Rows) -> NDArray[np.float64]:
        values = np.asarray(self._costs[name](self._space.from_stage_rows(rows)), dtype=np.float64)
        self._least[name] = min(self._least[name], float(values.min(initial=np.inf)))
        return values

    def _beyond(self, rows: Rows, names: list[str] | None = None) -> NDArray[np.float64]:
        """How far (N,) candidates are beyond their budgets, in shares of each; 0 only where within all."""
        total = np.zeros(len(rows))
        for name in self._limits if names is None else names:
            limit = self._limits[name]
            total += np.maximum(self._cost(name, rows) - limit, 0) / (abs(limit) or 1.0)
        return total

    def _beyond_additive(self, stratum: _Stratum, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._beyond(stratum.rows(chosen), self._additive)

    def _unmet(self) -> UserError:
        """What additive budgets rule out, each with the least that the others leave possible."""
        beside: dict[str, float] = {}
        for number, name in enumerate(self._additive):
            limits = np.array([self._limits[each] for each in self._additive])
            limits[number] = np.inf
            answers = [(s, solve(s.stacked(self._additive), limits, minimise=number)) for s in self._strata]
            reached = [s.rows(answer[None]) for s, answer in answers if answer is not None]
            if reached:
                beside[name] = min(float(self._cost(name, rows)[0]) for rows in reached)
        return unmet(self._space, self._limits, self._least, beside)


def unmet(
    space: SearchSpace,
    limits: Mapping[str, float],
    least: Mapping[str, float],
    beside: Mapping[str, float],
    certain: bool = True,
) -> UserError:
    """The error that no candidate is within the limits.

    Args:
        least: the least that each cost is known to be.
        beside: the least that each cost can be while the others stay within their limits, where that can be.
        certain: whether there is none, or none was found.
    """
    facts = []
    for name, limit in limits.items():
        reach = f"the least is {least[name]:,.12g}"
        if len(limits) > 1 and name in beside:
            reach += f", and {beside[name]:,.12g} within the others"
        facts.append(f"{name} {limit:,.12g} ({reach})")
    verb = "is" if certain else "was found"
    return UserError(f"search space {space.name!r}: no candidate {verb} within {'; '.join(facts)}: raise a budget")
