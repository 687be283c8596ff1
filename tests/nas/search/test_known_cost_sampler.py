"""The sampler in plain Optuna, ask/tell and OptunaSearch; several unknowns, constraints, priors, large spaces."""

import math
import pickle

import moocore
import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from nas.search import proposer
from nas.search.decisions import GridSpace, ListedSpace, distributions, params_of, vector_of
from nas.search.known_cost_sampler import PROPOSAL, ExhaustedError, KnownCostSampler
from nas.search.surrogate.features import Features
from nas.search.surrogate.model import Surrogate, SurrogateSettings
from search_spaces.errors import UserError

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = GridSpace({f"layer{i}": ("small", "middle", "large") for i in range(5)})
ALL = SPACE.enumerate()
GAINS = np.array([1.0, 0.5, 0.3, 0.8, 0.2])


def costs_of(matrix):
    """Two costs that pull in different directions."""
    return np.column_stack([1.0 + matrix @ np.array([1.0, 2.0, 3.0, 1.0, 1.0]), 10.0 + matrix @ [3, 1, 1, 2, 5]])


def error_of(matrix):
    """Falls with every layer's size, with an interaction of the first two layers."""
    return np.exp(1.0 - matrix @ GAINS + 0.3 * (matrix[:, 0] == 2) * (matrix[:, 1] == 0))


TRUTH = np.column_stack([error_of(ALL), costs_of(ALL)])
WORST = TRUTH.max(axis=0)


def share(vectors):
    """Hypervolume of some candidates as a share of what all have."""
    rows = np.array(vectors)
    values = np.column_stack([error_of(rows), costs_of(rows)])
    return moocore.hypervolume(values, ref=WORST) / moocore.hypervolume(TRUTH, ref=WORST)


def values_of(vector):
    return [float(error_of(vector[None])[0]), *(float(c) for c in costs_of(vector[None])[0])]


def drive(sampler, num, space=SPACE, ask_ahead=1, values=values_of, fail=(), constrain=None):
    """Ask and tell; returns the vectors in the order of asking."""
    num_objectives = len(sampler._known)
    study = optuna.create_study(directions=["minimize"] * num_objectives, sampler=sampler)
    vectors, waiting = [], []
    while len(vectors) < num:
        trial = study.ask(distributions(space))
        vectors.append(vector_of(space, trial.params))
        waiting.append((trial, vectors[-1]))
        if len(waiting) >= ask_ahead:
            for trial, vector in waiting:
                if constrain is not None:
                    trial.set_constraint("memory", constrain(vector))
                if trial.number in fail:
                    study.tell(trial, state=TrialState.FAIL)
                else:
                    study.tell(trial, values(vector))
            waiting = []
    return [tuple(int(i) for i in vector) for vector in vectors], study


def sampler(seed=0, **options):
    return KnownCostSampler(SPACE, costs_of, [False, True, True], seed=seed, **options)


def test_it_finds_the_front_in_a_fraction_of_the_space():
    """243 candidates; random search needs most of them for 99 %."""
    for seed in range(2):
        vectors, _ = drive(sampler(seed), 25)
        assert len(set(vectors)) == 25
        assert share(vectors) > 0.99
    rng = np.random.default_rng(0)
    assert share(ALL[rng.permutation(len(ALL))[:25]]) < 0.95


def test_batches_are_as_good():
    vectors, _ = drive(sampler(), 32, ask_ahead=8)
    assert len(set(vectors)) == 32
    assert share(vectors) > 0.98


def test_order_of_results_and_seed_decide_everything():
    first, study = drive(sampler(3), 14, ask_ahead=2)
    assert first == drive(sampler(3), 14, ask_ahead=2)[0]
    assert first != drive(sampler(4), 14, ask_ahead=2)[0]
    # Other processes that go on with the same study agree, and repeat nothing.
    further = []
    for _ in range(2):
        again = optuna.create_study(directions=["minimize"] * 3, sampler=sampler(3))
        again.add_trials(study.get_trials())
        further.append([tuple(int(i) for i in vector) for vector in drive_on(again, 3)])
    assert further[0] == further[1] and len({*first, *further[0]}) == 17


def drive_on(study, num):
    vectors = []
    for _ in range(num):
        trial = study.ask(distributions(SPACE))
        vectors.append(vector_of(SPACE, trial.params))
        study.tell(trial, values_of(vectors[-1]))
    return vectors


def test_every_candidate_once_then_exhausted_with_failures_and_nan():
    space = GridSpace({"a": (1, 2, 3), "b": (1, 2)})
    ours = KnownCostSampler(space, lambda m: m.sum(axis=1), [False, True], seed=0, num_initial=2)

    def values(vector):
        return [float("inf") if vector[0] == 2 else float(vector[0]), float(vector.sum())]

    vectors, study = drive(ours, 6, space, values=values, fail=(1, 3))
    assert len(set(vectors)) == 6
    with pytest.raises(ExhaustedError):
        study.ask(distributions(space))


def test_limits_are_never_crossed_and_open_ones_are_asked_last():
    allowed = costs_of(ALL)[:, 0] <= 6
    ours = sampler(allowed=lambda m: costs_of(m)[:, 0] <= 6, is_open=lambda v: v[4] != 1)
    good = allowed & (ALL[:, 4] != 1)
    vectors, study = drive(ours, int(good.sum()))
    assert set(vectors) == {tuple(row) for row in ALL[good].tolist()}
    with pytest.raises(ExhaustedError):
        study.ask(distributions(SPACE))


def test_plain_optimize_with_other_kinds_of_parameters():
    given = {"depth": IntDistribution(2, 8, step=2), "ratio": FloatDistribution(0.5, 1.0, step=0.25)}
    space = GridSpace.from_distributions(given | {"kind": CategoricalDistribution(("x", "y", None))})
    depth, ratio = np.array([2, 4, 6, 8]), np.array([0.5, 0.75, 1.0])

    def costs(matrix):
        return depth[matrix[:, 0]] * ratio[matrix[:, 1]]

    def objective(trial):
        d, r = trial.suggest_int("depth", 2, 8, step=2), trial.suggest_float("ratio", 0.5, 1.0, step=0.25)
        kind = trial.suggest_categorical("kind", ("x", "y", None))
        if kind is None and d == 8:
            raise ValueError("does not fit")
        return 1.0 / d + (kind == "x") * 0.1, -float(d) * 2, d * r

    ours = KnownCostSampler(space, costs, [False, False, True], seed=1)
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"], sampler=ours)
    study.optimize(objective, n_trials=20, catch=ValueError)
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 20
    assert {trial.state for trial in study.trials} >= {TrialState.COMPLETE}
    study.optimize(objective, n_trials=4, catch=ValueError, n_jobs=2)
    assert len({tuple(trial.params.items()) for trial in study.trials}) == 24


def test_every_proposal_says_why():
    reference = WORST.tolist()
    ours = sampler(reference=reference)
    vectors, study = drive(ours, 8)
    reasons = [trial.user_attrs[PROPOSAL] for trial in study.trials]
    assert [reason["phase"] for reason in reasons] == ["initial"] * 5 + ["improvement"] * 3
    last = ours.last_proposal
    assert last.vector == vectors[-1] and last.num_observed == 7
    assert last.costs == tuple(costs_of(np.array([last.vector]))[0])
    (low, middle, high) = last.predicted[0]
    assert 0 < low < middle < high and last.feasible is None
    assert 0 < last.expected_improvement < last.hypervolume
    seen = np.array(vectors[:7])
    truth = moocore.hypervolume(np.column_stack([error_of(seen), costs_of(seen)]), ref=reference)
    assert last.hypervolume == pytest.approx(truth)
    assert reasons[-1]["expected_improvement"] == last.expected_improvement


def test_the_reference_keeps_evaluations_where_they_count():
    """Nothing beyond the reference adds to the hypervolume, so nothing there is proposed."""
    limit = float(np.median(costs_of(ALL)[:, 0]))
    vectors, _ = drive(sampler(reference=[None, limit, None]), 20)
    assert (costs_of(np.array(vectors[5:]))[:, 0] < limit).all()


def test_measured_constraints_are_learned():
    """A measured memory that forbids large first and fourth layers: few trials break it while others can help."""

    def memory(vector):
        return float(vector[0] + vector[3]) - 1.5

    vectors, study = drive(sampler(), 40, constrain=memory)
    broken = np.array([memory(np.array(vector)) > 0 for vector in vectors])
    assert (np.array([memory(v) > 0 for v in ALL])).mean() > 0.5
    assert broken[8:28].mean() < 0.2
    assert all(trial.user_attrs[PROPOSAL]["feasible"] > 0.1 for trial in study.trials[10:20])


def test_a_good_prior_saves_evaluations_and_a_useless_one_costs_little():
    def useless(matrix):
        return np.random.default_rng(0).random(243)[SPACE.rank(matrix)]

    def good(matrix):
        return np.where(matrix[:, 0] == 9, np.inf, error_of(matrix) ** 0.8 * 7)

    def needed(prior):
        return np.mean([first_over(drive(sampler(seed, prior=prior), 26)[0]) for seed in range(2)])

    def first_over(vectors):
        return next((n for n in range(1, 27) if share(vectors[:n]) > 0.98), 27)

    assert needed(good) < needed(None)
    assert needed(useless) < 27


@pytest.mark.parametrize("decades", [True, False])
def test_an_error_of_zero_stops_nothing(decades):
    """What equals the teacher has error 0, and its logarithm is not finite."""

    def values(vector):
        return [0.0 if vector[0] == 2 else float(error_of(vector[None])[0]), *values_of(vector)[1:]]

    vectors, study = drive(sampler(decades=[decades, False, False]), 20, values=values)
    assert len(set(vectors)) == 20
    reasons = [trial.user_attrs[PROPOSAL] for trial in study.trials[5:]]
    assert [reason["phase"] for reason in reasons] == ["improvement"] * 15
    for reason in reasons:  # in the error's own units, whatever the hypervolume is counted in
        low, middle, high = reason["predicted"][0]
        assert low < middle < high and (low > 0 or not decades)


def test_large_space():
    """3^40 candidates: an evolving pool, limits, no duplicates, better than random by far."""
    space = GridSpace({f"d{i}": (0, 1, 2) for i in range(40)})
    gains = np.random.default_rng(0).random(40)
    ours = KnownCostSampler(
        space,
        lambda m: np.column_stack([m.sum(axis=1) + 1.0, 1.0 + m @ gains[::-1]]),
        [False, True, True],
        seed=0,
        allowed=lambda m: m.sum(axis=1) <= 60,
    )

    def values(vector):
        return [math.exp(-float(vector @ gains) / 4), float(vector.sum()) + 1, 1.0 + float(vector @ gains[::-1])]

    vectors, _ = drive(ours, 12, space, values=values, ask_ahead=2)
    rows = np.array(vectors)
    assert len(set(vectors)) == 12 and (rows.sum(axis=1) <= 60).all()
    rng = np.random.default_rng(0)
    draws = space.sample(rng, 200)
    draws = draws[draws.sum(axis=1) <= 60]
    reference = [1.0, 61.0, 1.0 + 2 * gains.sum()]

    def volume(matrix):
        return moocore.hypervolume(np.array([values(row) for row in matrix]), ref=reference)

    assert volume(rows) > volume(draws)


def test_narrow_limits_in_a_large_space_are_drawn_or_reached_from_what_was_evaluated():
    """No random candidate of 3^40 has a sum of at most 8; with none drawn, one that was enqueued leads to others."""
    space = GridSpace({f"d{i}": (0, 1, 2) for i in range(40)})

    def allowed(matrix):
        return matrix.sum(axis=1) <= 8

    def draw(rng, num):
        return (rng.random((num, 40)) < 0.1).astype(np.int64)

    def values(vector):
        return [1.0 / (1 + vector[:10].sum()), float(vector.sum())]

    options = {"seed": 0, "allowed": allowed, "num_initial": 2}
    vectors, _ = drive(
        KnownCostSampler(space, lambda m: m.sum(axis=1), [False, True], draw=draw, **options), 6, space, 1, values
    )
    assert len(set(vectors)) == 6 and max(map(sum, vectors)) <= 8
    study = optuna.create_study(
        directions=["minimize"] * 2, sampler=KnownCostSampler(space, lambda m: m.sum(axis=1), [False, True], **options)
    )
    for start in (np.eye(40, dtype=np.int64)[0], np.zeros(40, dtype=np.int64)):
        study.enqueue_trial(params_of(space, start))
    for _ in range(5):
        trial = study.ask(distributions(space))
        assert sum(trial.params.values()) <= 8
        study.tell(trial, values(vector_of(space, trial.params)))


def test_a_long_list_is_looked_at_in_part_between_fits(monkeypatch):
    """With a list cut to its 40 most promising candidates the result is nearly as good, and nothing comes twice."""
    monkeypatch.setattr(proposer, "MAX_ACTIVE", 40)
    vectors, _ = drive(sampler(), 30)
    assert len(set(vectors)) == 30
    assert share(vectors) > 0.97


def test_a_table_of_some_candidates_only():
    rows = ALL[np.random.default_rng(1).permutation(len(ALL))[:80]]
    space = ListedSpace({f"layer{i}": ("small", "middle", "large") for i in range(5)}, rows)
    ours = KnownCostSampler(space, costs_of, [False, True, True], seed=0)
    vectors, _ = drive(ours, 80, space)
    assert set(vectors) == {tuple(row) for row in rows.tolist()}


def test_enqueued_trials_and_those_of_others():
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler())
    study.enqueue_trial(params_of(SPACE, ALL[200]))
    study.enqueue_trial({"layer0": "small"})
    first = study.ask(distributions(SPACE))
    assert (vector_of(SPACE, first.params) == ALL[200]).all() and PROPOSAL not in first.user_attrs
    second = study.ask(distributions(SPACE))
    assert second.params["layer0"] == "small"
    study.tell(first, values_of(ALL[200]))
    assert len(drive_on(study, 6)) == 6


def test_optuna_search_and_its_checkpoint(tmp_path):
    """The calls that Ray Tune makes, in its order; a metric that is NaN leaves its trial running in Optuna."""
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(
        space=distributions(SPACE),
        metric=["error", "latency", "params"],
        mode=["min", "min", "min"],
        sampler=KnownCostSampler(SPACE, costs_of, [False, True, True], seed=0),
    )
    seen = []
    for i in range(12):
        config = search.suggest(f"t{i}")
        seen.append(tuple(config.items()))
        error, latency, params = values_of(vector_of(SPACE, config))
        search.on_trial_complete(
            f"t{i}", {"error": math.nan if i == 4 else error, "latency": latency, "params": params}
        )
        if i == 6:
            search.save(str(tmp_path / "checkpoint"))
            search.restore(str(tmp_path / "checkpoint"))
    assert len(set(seen)) == 12
    assert pickle.loads(pickle.dumps(search._sampler)).last_proposal is not None  # noqa: S301


def test_what_cannot_be_is_one_line():
    with pytest.raises(UserError, match="every objective is known"):
        KnownCostSampler(SPACE, costs_of, [True, True])
    with pytest.raises(UserError, match="reference has 1 entries for 3 objectives"):
        sampler(reference=[None])
    with pytest.raises(UserError, match="costs have 2 columns for 1 known objectives"):
        drive(KnownCostSampler(SPACE, costs_of, [False, True]), 1)
    study = optuna.create_study(directions=["minimize", "maximize", "minimize"], sampler=sampler())
    with pytest.raises(UserError, match="objective 1 is known and maximised"):
        study.ask(distributions(SPACE))
    study = optuna.create_study(directions=["minimize"], sampler=sampler())
    with pytest.raises(UserError, match="study has 1 objectives, the sampler was told of 3"):
        study.ask(distributions(SPACE))


def proposal_after(values, forecasts, pending=()):
    """What is proposed after trials of these vectors' rows with these errors; a forecast makes one a stopped trial."""
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler(reference=[3.0, *WORST[1:]]))
    for row, error in values.items():
        trial = optuna.trial.create_trial(
            values=[error, *TRUTH[row, 1:]],
            params=params_of(SPACE, ALL[row]),
            distributions=distributions(SPACE),
            user_attrs={"forecast": [forecasts[row]]} if row in forecasts else {},
        )
        study.add_trial(trial)
    study.ask(distributions(SPACE))
    seen = study.sampler._history.seen(study, -1)
    return study.sampler.last_proposal, seen


def test_what_was_stopped_is_learned_from_with_its_uncertainty_and_is_not_on_the_front():
    rows = list(range(0, 243, 20))
    errors = {row: TRUTH[row, 0] for row in rows}
    plain, _ = proposal_after({row: errors[row] for row in rows[:-1]}, {})
    # The dearest of them, with an error that would be the best of all.
    lucky = errors | {rows[-1]: 1e-3}
    measured, _ = proposal_after(lucky, {})
    stopped, seen = proposal_after(lucky, {rows[-1]: [0.5e-3, 2e-3]})
    assert measured.hypervolume > plain.hypervolume * 1.001
    assert stopped.hypervolume == pytest.approx(plain.hypervolume, rel=1e-9)
    assert tuple(stopped.vector) not in {tuple(ALL[row]) for row in rows}
    assert seen.deviations[:-1].max() == 0 and seen.deviations[-1, 0] == pytest.approx(1.5e-3 / (2 * 1.645), rel=1e-3)


def test_a_surrogate_takes_an_uncertain_value_for_what_it_is():
    rows = list(range(0, 243, 20))
    table = Features(SPACE, ALL, costs_of(ALL))
    groups, features = table.groups, table(ALL, costs_of(ALL))
    values = TRUTH[rows, 0].copy()
    values[-1] *= 3
    deviations = np.zeros(len(rows))
    deviations[-1] = 1e6
    grown, certain = (Surrogate(groups, SurrogateSettings(refit_growth=10.0)) for _ in range(2))
    for surrogate in (grown, certain):
        surrogate.update(rows, features[rows], values[:-1])  # the last one is pending, then it ends
    before = grown.predict(features)
    # A forecast that says nothing changes what is expected of nobody, and leaves what was learned.
    assert not grown.update(rows, features[rows], values, deviations)
    assert grown.predict(features).mean == pytest.approx(before.mean, abs=1e-6)
    assert (grown.predict(features).deviation >= before.deviation - 1e-9).all()
    certain.update(rows, features[rows], values)
    assert abs(certain.predict(features).mean - before.mean).max() > 0.01
    # In between it counts the less the more uncertain it is.
    moved = []
    for deviation in (0.01, 0.3, 3.0):
        deviations[-1] = deviation
        certain.update(rows, features[rows], values, deviations)
        moved.append(abs(certain.predict(features).mean - before.mean).max())
    assert moved[0] > moved[1] > moved[2] > 0


def test_what_is_like_failures_is_avoided():
    """Two ninths of the space fail, at its promising end: each failure says something of its neighbours."""
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler(1))
    failed = []
    for _ in range(30):
        trial = study.ask(distributions(SPACE))
        vector = vector_of(SPACE, trial.params)
        failed.append(bool(vector[0] == 2 and vector[3] >= 1))
        study.tell(trial, **({"state": TrialState.FAIL} if failed[-1] else {"values": values_of(vector)}))
    assert 0 < sum(failed) <= 6  # 11 without a model of what fails
    reasons = [trial.user_attrs[PROPOSAL] for trial in study.trials]
    first = failed.index(True) + 1
    likely = [reason["feasible"] for reason in reasons[first:] if reason["phase"] == "improvement"]
    assert not any("feasible" in reason for reason in reasons[:first])
    assert len(likely) > 20 and all(0 < p < 1 for p in likely)
