"""Candidates within budgets from spaces too large to list; see :func:`search_spaces.sampling.sample_within`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from search_spaces.bounded_counts import MAX_BUDGETS, BoundedCounts
from search_spaces.errors import UserError
from search_spaces.feasible import Answer, Rows, best_within, sweep, walk_down
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
SOLVER_SECONDS = 20.0


class Known(Enum):
    """What is known of a least cost."""

    EXACT = ""
    AT_LEAST = "at least "
    FOUND = "found: "


@dataclass(frozen=True)
class Least:
    """The least that a cost can be."""

    value: float
    known: Known = Known.EXACT


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
        solver_seconds: how long, in all, the solver may look for candidates where drawing finds none.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Mapping[str, Cost],
        limits: Mapping[str, float],
        solver_seconds: float = SOLVER_SECONDS,
    ) -> None:
        self._space, self._costs, self._limits, self._seconds = space, costs, limits, solver_seconds
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
            UserError: no candidate is within the budgets, or none was found and why that is not certain.
        """
        counted = self._tightest(rng)
        counts = [
            BoundedCounts.of(stratum.stacked(counted), np.array([self._limits[name] for name in counted]))
            for stratum in self._strata
        ]
        totals = np.array([each.total for each in counts])
        if not totals.any():  # counting rounds down, so this is certain
            raise self._unmet(time.monotonic() + self._seconds)
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
        deadline = time.monotonic() + self._seconds
        answers = [*self._solved(limits, deadline)]
        solved = [stratum.rows(answer.rows[None]) for stratum, answer in answers if answer.rows is not None]
        if not solved:
            raise self._unmet(deadline, next((answer.unsure for _, answer in answers if answer.unsure), ""))
        rows = np.concatenate([*solved, proposed[: _CHAINS - len(solved)]])
        found = walk_down(rows, self._space.stage_sizes, self._beyond, rng)
        if not len(found):
            raise self._error({}, f"going downhill from {len(rows)} candidates led to none")
        return found

    def _solved(
        self, limits: NDArray[np.float64], deadline: float, minimise: int | None = None
    ) -> Iterator[tuple[_Stratum, Answer]]:
        """The solver's answer for each stratum; each may take its share of the time that is left."""
        for number, stratum in enumerate(self._strata):
            seconds = (deadline - time.monotonic()) / (len(self._strata) - number)
            names = [name for name, limit in zip(self._additive, limits, strict=True) if limit != np.inf]
            beyond = partial(self._beyond_additive, stratum, names)
            yield stratum, best_within(stratum.stacked(self._additive), limits, beyond, seconds, minimise)

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

    def _beyond_additive(self, stratum: _Stratum, names: list[str], chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        return self._beyond(stratum.rows(chosen), names)

    def _unmet(self, deadline: float, unsure: str = "") -> UserError:
        """What additive budgets rule out, each with the least that the others leave possible."""
        beside: dict[str, Least] = {}
        all_add_up = len(self._additive) == len(self._limits)
        for number, name in enumerate(self._additive):
            limits = np.array([self._limits[each] for each in self._additive])
            limits[number] = np.inf
            answers = [*self._solved(limits, deadline, minimise=number)]
            reached = [stratum.rows(answer.rows[None]) for stratum, answer in answers if answer.rows is not None]
            proven = not any(answer.unsure for _, answer in answers)
            if reached and (proven or all_add_up):  # else nothing is known: what was found may be beyond another budget
                known = (Known.EXACT if all_add_up else Known.AT_LEAST) if proven else Known.FOUND
                beside[name] = Least(min(float(self._cost(name, rows)[0]) for rows in reached), known)
        return self._error(beside, unsure)

    def _error(self, beside: Mapping[str, Least], unsure: str) -> UserError:
        least = {
            name: Least(value, Known.EXACT if name in self._additive else Known.FOUND)
            for name, value in self._least.items()
        }
        return unmet(self._space, self._limits, least, beside, unsure)


def unmet(
    space: SearchSpace,
    limits: Mapping[str, float],
    least: Mapping[str, Least],
    beside: Mapping[str, Least],
    unsure: str = "",
) -> UserError:
    """The error that no candidate is within the limits.

    Args:
        least: the least that each cost can be.
        beside: the least that each cost can be while the others stay within their limits, where that can be.
        unsure: why none was found although there may be some; empty: it is certain that there is none.
    """
    facts = []
    for name, limit in limits.items():
        reach = f"the least {'found ' if least[name].known is Known.FOUND else ''}is {least[name].value:,.12g}"
        if len(limits) > 1 and name in beside:
            reach += f", and {beside[name].known.value}{beside[name].value:,.12g} within the others"
        facts.append(f"{name} {limit:,.12g} ({reach})")
    verb, why = ("was found", f": {unsure}, so there may be some") if unsure else ("is", "")
    return UserError(f"search space {space.name!r}: no candidate {verb} within {'; '.join(facts)}{why}: raise a budget")
