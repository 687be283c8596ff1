"""Grids and lists of candidates as samplers see them; SearchSpace offers the same."""

import itertools

import numpy as np
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from nas.search.decisions import DecisionSpace, GridSpace, ListedSpace, distributions, members, params_of, vector_of
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

GRID = {"a": (1, 2, 3), "b": ("x",), "c": (True, None, 0.5, "text")}
ROWS = np.array([[2, 0, 1], [0, 0, 0], [2, 0, 3], [1, 0, 1]])
SPACES: list[DecisionSpace] = [
    GridSpace(GRID),
    ListedSpace(GRID, ROWS),
    SearchSpace(name="s", options={"E1": ("RARA", "RA", "R"), "deep": ("none",), "D1": ("RARARA", "RR")}),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: type(space).__name__)
def test_what_every_space_offers(space):
    everything = space.enumerate()
    assert len(everything) == space.num_candidates == len({tuple(row) for row in everything.tolist()})
    assert everything.shape[1] == len(space.sizes) == len(space.decisions)
    assert (space.rank(everything) == np.arange(len(everything))).all()
    assert (space.unrank(np.array([2, 0])) == everything[[2, 0]]).all()
    assert (space.canonical(everything) == everything).all()
    assert members(space, everything).all()
    drawn = space.sample(np.random.default_rng(0), 300)
    assert set(space.rank(drawn).tolist()) == set(range(len(everything)))
    for row in everything:
        near = {tuple(r) for r in space.neighbours(row).tolist()}
        assert near == {tuple(r) for r in everything.tolist() if (np.array(r) != row).sum() == 1}
        assert (vector_of(space, params_of(space, row)) == row).all()
    assert list(distributions(space)) == [decision.name for decision in space.free_decisions]


def test_a_list_knows_what_it_does_not_hold():
    space = ListedSpace(GRID, ROWS)
    everything = GridSpace(GRID).enumerate()
    listed = {tuple(row) for row in ROWS.tolist()}
    assert members(space, everything).tolist() == [tuple(row) in listed for row in everything.tolist()]
    with pytest.raises(UserError, match=r"\[0, 0, 1\] is none of the 4 listed candidates"):
        space.rank(np.array([[2, 0, 1], [0, 0, 1]]))


def test_numbers_of_a_space_beyond_64_bits():
    space = GridSpace({f"d{i}": tuple(range(9)) for i in range(22)})
    rows = space.sample(np.random.default_rng(0), 5)
    assert space.num_candidates == 9**22
    assert space.rank(rows).tolist() == [int("".join(map(str, row)), 9) for row in rows.tolist()]
    assert (space.unrank(space.rank(rows)) == rows).all()
    assert ListedSpace({f"d{i}": tuple(range(9)) for i in range(22)}, rows).rank(rows[::-1]).tolist() == [4, 3, 2, 1, 0]


def test_last_decision_varies_fastest():
    assert GridSpace(GRID).enumerate().tolist() == [list(row) for row in itertools.product(range(3), [0], range(4))]


def test_optuna_distributions():
    given = {
        "n": IntDistribution(2, 8, step=3),
        "r": FloatDistribution(0.5, 1, step=0.25),
        "one": IntDistribution(1, 1),
    }
    space = GridSpace.from_distributions(given)
    assert [decision.values for decision in space.decisions] == [(2, 5, 8), (0.5, 0.75, 1.0), (1,)]
    assert distributions(space) == {"n": given["n"], "r": given["r"]}
    with pytest.raises(UserError, match="parameter 'x' is FloatDistribution"):
        GridSpace.from_distributions({"x": FloatDistribution(0, 1)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GridSpace({}), "without decisions"),
        (lambda: GridSpace({"a": ()}), "'a' has no values"),
        (lambda: GridSpace({"a": (1, 1)}), "'a' has a value twice"),
        (lambda: ListedSpace(GRID, ROWS[:0]), "without candidates"),
        (lambda: ListedSpace(GRID, ROWS[[0, 1, 0]]), "rows 0 and 2 are the same candidate"),
        (lambda: GridSpace(GRID).canonical(np.array([[0, 1, 0]])), "index 1 of b in row 0; legal are 0 to 0"),
        (lambda: GridSpace(GRID).rank(np.zeros((2, 2), int)), r"shape \(2, 2\); legal is \(candidates, 3\)"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
