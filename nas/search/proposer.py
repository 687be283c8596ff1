"""Which candidate to evaluate next: the engine behind the sampler, without Optuna.

At least a few candidates spread over the costs are evaluated first. Then each unknown objective has a surrogate,
and the candidate with the largest expected hypervolume improvement over the front is chosen: exact, because the known
objectives of every candidate are known. Candidates under evaluation count as if they had come out as predicted
(Kriging believer), so that a batch is asked for one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nas.pareto import front, hypervolume
from nas.search.acquisition import expected_improvement, nondominated_boxes
from nas.search.candidate_pool import Candidates, Evolution, Room
from nas.search.decisions import Indices
from nas.search.surrogate.model import Predicted, Surrogate, SurrogateSettings
from nas.search.surrogate.transforms import Transform, TransformName

Floats = NDArray[np.float64]

_Z90 = 1.6448536269514722  # 90 % of a normal distribution are within so many standard deviations

# Up to so many candidates all of them are looked at; beyond, a pool evolves.
MAX_LISTED = 2**20
# Of longer lists all are looked at only when the kernel changes; in between, the most promising ones.
MAX_ACTIVE = 2**15


@dataclass(frozen=True)
class Seen:
    """What has been evaluated and what is being evaluated. All objectives minimised."""

    vectors: Indices
    """(n, decisions) evaluated."""
    values: Floats
    """(n, unknown objectives)."""
    pending: Indices
    """(p, decisions) under evaluation."""
    closed: Indices
    """(c, decisions) others that must not be proposed."""
    failed: Indices | None = None
    """(f, decisions) whose evaluation failed, none of the others (None: none): not proposed, and what is like them is
    expected to fail, too."""
    constraints: Mapping[str, Floats] = field(default_factory=dict)
    """(n,) measured values that must not be above zero; NaN where unknown."""
    deviations: Floats | None = None
    """(n, unknown objectives) standard deviations of values that were predicted because the evaluation was stopped; 0
    of measured ones (None: all are)."""


@dataclass(frozen=True)
class Proposal:
    """A candidate and why it was chosen."""

    vector: tuple[int, ...]
    phase: Literal["initial", "improvement", "random"]
    """One of the first, spread over the costs; the best expectation; or at random, where none is expected to gain."""
    num_observed: int
    costs: tuple[float, ...]
    """Its known objectives."""
    expected_improvement: float | None = None
    """Hypervolume that its evaluation is expected to add, times `feasible`."""
    hypervolume: float | None = None
    """Of the front so far (what is under evaluation included as predicted), below the same reference."""
    predicted: tuple[tuple[float, float, float], ...] = ()
    """For each unknown objective the 5 %, 50 % and 95 % quantiles."""
    feasible: float | None = None
    """Probability of meeting the measured constraints and, once an evaluation has failed, of not failing."""


class Proposer:
    """Proposes candidates of one space.

    Args:
        room: space, known costs, limits.
        num_unknown: unknown objectives.
        seed: of the first candidates.
        reference: upper ends of the hypervolume, first of the unknown, then of the known objectives; None entries:
            the worst value observed or expected, the worst cost of the space.
        num_initial: candidates that are evaluated before the surrogates are asked.
        has_prior: whether the first given numbers of a candidate are predictions of the unknown objectives.
        settings: of the surrogates.
    """

    def __init__(
        self,
        room: Room,
        *,
        num_unknown: int = 1,
        seed: int = 0,
        reference: Sequence[float | None] | None = None,
        num_initial: int = 5,
        has_prior: bool = False,
        settings: SurrogateSettings | None = None,
    ) -> None:
        self._room, self._num_unknown, self._num_initial = room, num_unknown, num_initial
        self._settings = settings or SurrogateSettings()
        self._surrogates = [Surrogate(room.features.groups, self._settings) for _ in range(num_unknown)]
        self._constraints: dict[str, Surrogate] = {}
        self._failing = self._constraint()
        self._listed = room.space.num_candidates <= MAX_LISTED
        rng = np.random.default_rng([seed, 0])
        start = room.table if self._listed else room.candidates(room.random(rng, 20_000))
        # Limits so narrow that no random candidate is within them: the scale of the whole space will do.
        seen = start if len(start) else room.candidates(room.space.sample(rng, 2048))
        self._worst_costs = seen.costs.max(axis=0)
        # Where the worst values are looked for.
        if self._listed and 0 < len(start) <= MAX_ACTIVE:
            self._probe = start.features
        else:
            self._probe = seen.features[np.linspace(0, len(seen) - 1, min(len(seen), 2048)).astype(int)]
        self._expected_worst: list[float] = []
        self._reference = reference
        if not len(start):
            first = np.zeros(0, dtype=np.int64)
        elif has_prior and start.given is not None:
            first = expected_first(start.given[:, :num_unknown], start.costs, num_initial)
        else:
            first = stratified(start.costs, num_initial, rng)
        self._first = start.matrix[first]
        self._evolution = None if self._listed else Evolution(room)
        self._features: dict[int, Floats] = {}
        self._costs: dict[int, Floats] = {}
        self._ranks = np.asarray(room.space.rank(room.table.matrix), dtype=np.int64) if self._listed else None
        self._active: tuple[Candidates, NDArray[np.int64]] | None = None

    def propose(self, seen: Seen, rng: np.random.Generator) -> Proposal | None:
        """The next candidate; None where every one within the limits was seen.

        Args:
            seen: everything so far, in the same order as before with new entries at the ends.
            rng: breaks ties, and drives the pool of a large space.
        """
        keys = self._keys(np.concatenate([seen.vectors, seen.pending]))
        failed = [] if seen.failed is None else self._keys(seen.failed)
        taken = {*keys, *failed, *self._keys(seen.closed)}
        num = len(seen.vectors)
        if len(keys) < self._num_initial or num < 2:
            return self._initial(taken, num, rng)
        features = np.stack([self._features[key] for key in keys])
        costs = np.stack([self._costs[key] for key in keys])
        anew = False
        believed = []
        for u, surrogate in enumerate(self._surrogates):
            predicted = None if seen.deviations is None else seen.deviations[:, u]
            anew |= surrogate.update(keys, features, seen.values[:, u], predicted)
            believed.append(surrogate.believed(keys[num:]))
        values = np.concatenate([seen.values, np.column_stack(believed)]) if len(keys) > num else seen.values
        points = np.concatenate([values, costs], axis=1)
        met = np.ones(len(keys), dtype=bool)
        if seen.deviations is not None:  # what was never measured is not on the front
            met[:num] = (seen.deviations == 0).all(axis=1)
        for name, measured in seen.constraints.items():
            met[:num] &= ~(measured > 0)
            self._constraints.setdefault(name, self._constraint())
            known = np.flatnonzero(~np.isnan(measured))
            if len(known):
                rows = [*known, *range(num, len(keys))]
                self._constraints[name].update([keys[i] for i in rows], features[rows], measured[known])
        if anew:
            self._expected_worst = [self._predicted_worst(surrogate) for surrogate in self._surrogates]
        limit = self._limits(values)
        best = points[met][front(points[met])] if met.any() else points[:0]
        boxes = nondominated_boxes(best, limit)
        axes = range(self._num_unknown, points.shape[1])
        constraints = [self._constraints[name] for name in seen.constraints if self._constraints[name].fitted]
        if failed:
            rows = [*keys[:num], *failed, *keys[num:]]
            own = np.stack([self._features[key] for key in rows])
            self._failing.update(rows, own, np.repeat([-1.0, 1.0], [num, len(failed)]))
            constraints.append(self._failing)

        def score(candidates: Candidates, keep: bool = False) -> Floats:
            predicted = [surrogate.predict(candidates.features, keep) for surrogate in self._surrogates]
            gain = expected_improvement(boxes, candidates.costs, axes, predicted)
            for surrogate in constraints:
                gain *= surrogate.predict(candidates.features, keep).probability_below(0.0)
            return gain

        if self._evolution is None:
            candidates, gain = self._scan(score, taken, anew)
        else:
            leading = (
                np.concatenate([seen.vectors, seen.pending])[met][front(points[met])] if met.any() else seen.vectors
            )
            candidates, gain = self._evolution.run(leading, taken, score, rng)
        if not len(candidates) or gain.max() <= 0:
            return self._random(taken, num, rng)
        row = int(rng.choice(np.flatnonzero(gain == gain.max())))
        own = candidates.features[[row]]
        quantiles = [surrogate.predict(own).quantiles(0, (-_Z90, 0.0, _Z90)) for surrogate in self._surrogates]
        feasible = [float(surrogate.predict(own).probability_below(0.0)[0]) for surrogate in constraints]
        return Proposal(
            vector=tuple(candidates.matrix[row].tolist()),
            phase="improvement",
            num_observed=num,
            costs=tuple(candidates.costs[row].tolist()),
            expected_improvement=float(gain[row]),
            hypervolume=hypervolume(best, limit),
            predicted=tuple((low, middle, high) for low, middle, high in quantiles),
            feasible=float(np.prod(feasible)) if constraints else None,
        )

    def _constraint(self) -> Surrogate:
        """A surrogate of what must not be above zero."""
        return Surrogate(self._room.features.groups, replace(self._settings, transforms=("identity",)))

    def _scan(self, score: Callable[..., Floats], taken: set[int], anew: bool) -> tuple[Candidates, Floats]:
        """All candidates with their expected improvement, -1 where taken; of a long list the most promising ones."""
        assert self._ranks is not None
        table, ranks = self._room.table, self._ranks
        if len(table) > MAX_ACTIVE:
            if anew or self._active is None:
                rows = np.sort(np.argsort(-score(table), kind="stable")[:MAX_ACTIVE])
                given = None if table.given is None else table.given[rows]
                active = Candidates(table.matrix[rows], table.costs[rows], given, table.features[rows])
                self._active = active, ranks[rows]
            table, ranks = self._active
        gain = score(table, keep=True)
        gain[np.isin(ranks, np.fromiter(taken, dtype=np.int64, count=len(taken)))] = -1.0
        return table, gain

    def _predicted_worst(self, surrogate: Surrogate) -> float:
        """The worst value that the surrogate expects anywhere, one standard deviation included."""
        predicted = surrogate.predict(self._probe, keep=self._listed and len(self._probe) == len(self._room.table))
        return float(predicted.transform.inverse(predicted.mean + predicted.deviation).max())

    def _limits(self, values: Floats) -> Floats:
        """Upper ends of the hypervolume.

        The worst value observed depends on where the first candidates happened to be, and what is worse would count
        for nothing; so what the surrogates expect to be worst counts too, up to twice the range observed.
        """
        own = values.max(axis=0)
        own = np.maximum(own, np.minimum(self._expected_worst, 2 * own - values.min(axis=0)))
        worst = [*own, *self._worst_costs]
        given = self._reference if self._reference is not None else [None] * len(worst)
        return np.array([own if end is None else end for end, own in zip(given, worst, strict=True)], dtype=np.float64)

    def _keys(self, matrix: Indices) -> list[int]:
        """Numbers of candidates; features and costs of new ones are kept."""
        if not len(matrix):
            return []
        keys: list[int] = self._room.space.rank(matrix).tolist()
        new = [i for i, key in enumerate(keys) if key not in self._features]
        if new:
            found = self._room.candidates(self._room.space.canonical(matrix[new]))
            for i, features, costs in zip(new, found.features, found.costs, strict=True):
                self._features[keys[i]], self._costs[keys[i]] = features, costs
        return keys

    def _initial(self, taken: set[int], num: int, rng: np.random.Generator) -> Proposal | None:
        """The first candidate of the spread that was not taken."""
        for vector, key in zip(self._first, self._keys(self._first), strict=True):
            if key not in taken:
                return self._plain(vector, key, "initial", num)
        return self._random(taken, num, rng)

    def _random(self, taken: set[int], num: int, rng: np.random.Generator) -> Proposal | None:
        """A random candidate within the limits that was not taken."""
        if self._ranks is not None:
            free = np.flatnonzero(~np.isin(self._ranks, np.fromiter(taken, dtype=np.int64, count=len(taken))))
            if not len(free):
                return None
            row = int(rng.choice(free))
            return self._plain(self._room.table.matrix[row], int(self._ranks[row]), "random", num)
        rows = self._room.random(rng, 1000)
        for vector, key in zip(rows, self._keys(rows), strict=True):
            if key not in taken:
                return self._plain(vector, key, "random", num)
        return None

    def _plain(self, vector: Indices, key: int, phase: Literal["initial", "random"], num: int) -> Proposal:
        self._keys(vector[None])
        return Proposal(tuple(vector.tolist()), phase, num, tuple(self._costs[key].tolist()))


def expected_first(prior: Floats, costs: Floats, num: int) -> NDArray[np.int64]:
    """Rows with the largest expected hypervolume improvement one after the other, as if what is predicted were so.

    Args:
        prior: predicted unknown objectives (N, U), taken to be right within a factor of exp(0.3), or a tenth of their
            standard deviation where some are not positive.
        costs: known objectives (N, K).
    """
    values = np.concatenate([np.where(np.isfinite(prior), prior, np.nan), costs], axis=1)
    usable = np.flatnonzero(np.isfinite(values).all(axis=1))
    values = values[usable]
    reference = values.max(axis=0)
    unknown = []
    for column in values[:, : prior.shape[1]].T:
        name: TransformName = "log" if column.min() > 0 else "identity"
        transform = Transform.of(column, name)
        spread = 0.3 / transform.scale if name == "log" else 0.1
        unknown.append(Predicted(transform.forward(column), np.full(len(column), spread), transform))
    chosen: list[int] = []
    while len(chosen) < min(num, len(values)):
        boxes = nondominated_boxes(values[chosen], reference)
        gain = expected_improvement(boxes, values[:, prior.shape[1] :], range(prior.shape[1], values.shape[1]), unknown)
        gain[chosen] = -1.0
        chosen.append(int(np.argmax(gain)))
    return usable[chosen]


def stratified(costs: Floats, num: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows at random, one of each of `num` equal strata of the mean rank of costs (N, K)."""
    ranks = np.argsort(np.argsort(costs, axis=0, kind="stable"), axis=0).mean(axis=1)
    order = np.argsort(ranks, kind="stable")
    return np.array([rng.choice(part) for part in np.array_split(order, num) if len(part)], dtype=np.int64)
