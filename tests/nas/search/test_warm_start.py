"""The warm start takes the predicted front, ends first, and spreads over it."""

import numpy as np

from nas.pareto import front
from nas.search import warm_start
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space

SPACE = load_space("nanosd")
WEIGHTS = np.array([8.0, 4, 2, 1, 2, 4, 8])


def prior(matrix):
    return 0.005 + (matrix * WEIGHTS).sum(axis=1) / 100


def latency_ms(matrix):
    return 30 - (matrix * WEIGHTS[::-1] ** 0.5).sum(axis=1)


def num_params(matrix):
    return 1e6 * (50 - matrix.sum(axis=1))


def test_ends_first_then_the_predicted_front():
    points = warm_start(SPACE, prior, latency_ms, num_params, 12)
    assert len(points) == len(np.unique(points, axis=0)) == 12
    assert SPACE.decode(points[0]) == SPACE.named("largest")
    assert SPACE.decode(points[1]) == SPACE.named("smallest")
    table = SPACE.enumerate()
    values = np.stack([prior(table), latency_ms(table), num_params(table)], axis=1)
    on_front = front(values)
    assert all(on_front[SPACE.rank(points[2:])])


def test_spread_is_wider_than_that_of_random_front_members():
    table = SPACE.enumerate()
    rows = table[front(np.stack([prior(table), latency_ms(table), num_params(table)], axis=1))]

    def gap(points):
        unit = np.stack([np.log10(prior(points)), latency_ms(points) / 30, num_params(points) / 5e7], axis=1)
        distance = np.linalg.norm(unit[:, None] - unit[None], axis=2) + 9 * np.eye(len(unit))
        return distance.min()

    rng = np.random.default_rng(0)
    by_chance = [gap(rows[rng.choice(len(rows), 12, replace=False)]) for _ in range(50)]
    assert gap(warm_start(SPACE, prior, latency_ms, num_params, 12)) > max(by_chance)


def test_a_prefix_of_a_longer_warm_start_is_the_shorter_one():
    long = warm_start(SPACE, prior, latency_ms, num_params, 20)
    for num in (0, 1, 2, 5, 12):
        assert (warm_start(SPACE, prior, latency_ms, num_params, num) == long[:num]).all()


def test_infeasible_candidates_are_only_the_ends():
    def feasible(matrix):
        return latency_ms(matrix) <= 20

    points = warm_start(SPACE, prior, latency_ms, num_params, 10, feasible)
    assert feasible(points).tolist() == [False] + [True] * 9


def test_a_small_space_gives_no_more_than_its_front():
    space = SearchSpace(name="two", options={"E1": ("RA", "R")})
    points = warm_start(space, lambda m: m[:, 0] + 0.1, lambda m: 2.0 - m[:, 0], lambda m: 5 - m[:, 0], 10)
    assert points.tolist() == [[0], [1]]


def test_a_space_too_large_to_enumerate_is_sampled():
    widths = ("R", *(f"R_w0.{n}" for n in range(1, 10)))
    space = SearchSpace(name="large", options={f"E{i + 1}": widths for i in range(7)})
    points = warm_start(space, prior, latency_ms, num_params, 8)
    assert points.shape == (8, 7) and len(np.unique(points, axis=0)) == 8


def test_an_option_without_a_finite_prior_is_left_to_the_sampler():
    """A swap whose error is not finite has an infinite prior: it must neither stop the sweep nor be warm-started."""

    def broken(matrix):
        return np.where(np.asarray(matrix)[:, 0] == 1, np.inf, prior(matrix))

    points = warm_start(SPACE, broken, latency_ms, num_params, 12)
    assert len(points) == 12
    assert np.isfinite(broken(points[2:])).all(), "only the two ends of the space may have the option"
