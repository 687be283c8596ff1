"""Search spaces: encoding, enumeration, sampling, presets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.sampling import mutate
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space, preset_names

NANOSD = load_space("nanosd")


@given(st.integers(0, NANOSD.num_candidates - 1))
def test_encoding_ids_and_json_round_trip(rank: int) -> None:
    row = np.stack(np.unravel_index([rank], NANOSD.sizes), axis=1)[0]
    candidate = NANOSD.decode(row)
    assert (NANOSD.encode(candidate) == row).all()
    assert Candidate.from_id(candidate.id) == candidate == Candidate.from_json(candidate.to_json())
    assert hash(Candidate.from_id(candidate.id)) == hash(candidate)
    assert NANOSD.rank(row[None])[0] == rank


def test_enumeration_lists_every_candidate_once() -> None:
    matrix = NANOSD.enumerate()
    assert matrix.shape == (32_768, 7)
    assert (NANOSD.rank(matrix) == np.arange(32_768)).all()
    assert len({tuple(row) for row in matrix}) == 32_768


@given(st.integers(0, NANOSD.num_candidates - 1))
def test_neighbours_differ_in_one_stage(rank: int) -> None:
    row = NANOSD.enumerate()[rank]
    neighbours = NANOSD.neighbours(row)
    assert len(neighbours) == sum(NANOSD.sizes) - len(NANOSD.sizes) == len({tuple(n) for n in neighbours})
    assert ((neighbours != row).sum(axis=1) == 1).all()


def test_samples_are_uniform() -> None:
    sample = NANOSD.sample(np.random.default_rng(0), 40_000)
    for column, size in enumerate(NANOSD.sizes):
        if size > 1:
            counts = np.bincount(sample[:, column], minlength=size)
            assert chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("name", preset_names())
def test_presets_load_and_their_named_candidates_are_in_them(name: str) -> None:
    space = load_space(name)
    assert all(space.contains(space.named(candidate)) for candidate in space.candidates)


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("RARA-RA-R-none-RARA-RR-R@3", "E1 E2 E3 deep D3 D2 D1"),
        ("RR-RA-none-RARA-RRR", "E1 E2 deep D2 D1"),  # SDXL's
        ("R-R.x.R-R", "E1 deep D1"),
        ("RARA-RA-R-none-RARA-RR-R@3-teacher-64x1.64x3.64x3.64x3-4", "E1 E2 E3 deep D3 D2 D1 VE VD steps"),
        ("RR-RA-none-RARA-RRR-teacher-teacher-1", "E1 E2 deep D2 D1 VE VD steps"),
        ("R-R.x.R-R-teacher-teacher-50", "E1 deep D1 VE VD steps"),
    ],
)
def test_ids_say_their_stages(text: str, stages: str) -> None:
    candidate = Candidate.from_id(text)
    assert tuple(candidate.options) == tuple(stages.split())
    assert candidate.id == text and candidate == Candidate.from_id(text, tuple(stages.split()))


def test_wrong_candidates_are_one_line() -> None:
    space = SearchSpace(name="two", options={"E1": ("RA", "R"), "deep": ("none",), "D1": ("RA", "R")})
    for call, expected in (
        (lambda: space.encode(Candidate(options={"E1": "RR", "deep": "none", "D1": "R"})), "legal are RA, R"),
        (lambda: space.encode(Candidate(options={"E1": "R"})), "has stages E1"),
        (lambda: space.decode([0, 0, 2]), "outside"),
        (lambda: space.decode([0]), "outside"),
        (lambda: space.named("x"), "names no candidate"),
        (lambda: Candidate.from_id("RA-RA"), "has 2 options"),
        (lambda: Candidate.from_id("RA-RA-R-none-RARA-RR"), r"has 6 options; legal is .*\(7 for SD 1.x and 2.x, 5 for"),
        (lambda: Candidate.from_id("RA-none-R-teacher-4"), "has 5 options; legal is .* a pipeline 3 more"),
        (lambda: Candidate.from_id("RA"), "has 1 options"),
        (lambda: Candidate.from_id("-".join(["R"] * 21)), "has 21 options"),
        (lambda: Candidate.from_id("RA--R"), "has 3 options; legal is one per stage E1-deep-D1"),
        (lambda: Candidate.from_json("{"), "not JSON"),
        (lambda: Candidate.from_json('{"options": 3}'), "must be an object"),
        (lambda: Candidate.from_json("[" * 200_000), "nested too deeply"),
        (lambda: Candidate.from_json("9" * 5_000), "too many digits"),
        (lambda: Candidate.from_json('{"options": {"E1": "R", "E1": "RA"}}'), "gives key 'E1' twice"),
        (lambda: Candidate.from_id("R" * 200_000), r"'R+\.\.\.R+' has 1 options"),
        (lambda: space.named("x" * 200_000), r"names no candidate 'x+\.\.\.x+'"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ([[0, 0, -1]], r"index -1 of D1 in row 0 is outside search space 'two'; legal are 0 to 1"),
        ([[0, 0, 0], [2, 0, 0]], r"index 2 of E1 in row 1 is outside search space 'two'; legal are 0 to 1"),
        # In range once added up with its stage's other decisions, and so another candidate in silence.
        ([[1, 0, 2]], "index 2 of D1"),
        ([[0.0, 0.0, 0.9]], "index matrix of float64; legal are whole numbers"),
        ([[True, False, True]], "index matrix of bool"),
        ([0, 0, 0], r"index matrix of shape \(3,\): search space 'two' has 3 decisions; legal is \(candidates, 3\)"),
        ([[0, 0]], r"index matrix of shape \(1, 2\)"),
    ],
)
def test_index_matrices_of_no_candidates_are_refused(matrix: list[Any], expected: str) -> None:
    space = SearchSpace(name="two", options={"E1": ("RA", "R"), "deep": ("none",), "D1": ("RA", "R")})
    array = np.array(matrix)
    for call in (
        space.stage_rows,
        space.canonical,
        space.rank,
        lambda m: mutate(space, m, np.random.default_rng(0), 1),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            call(array)
        assert "\n" not in str(caught.value)
    if array.ndim == 2:
        with pytest.raises(UserError):
            space.neighbours(array[-1])


def test_index_matrices_of_any_whole_numbers_are_candidates() -> None:
    space = SearchSpace(name="two", options={"E1": {"word": ["RARA", "R"], "heads": [1, 0.5]}, "deep": ["none"]})
    every = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]])
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        assert space.stage_rows(every.astype(dtype)).tolist() == [[0, 0], [1, 0], [2, 0], [2, 0]]
    assert space.stage_rows(np.zeros((0, 3), dtype=int)).shape == (0, 2)


def test_neighbours_need_not_be_symmetric() -> None:
    options = {"E1": {"word": ["RARA", "R"], "ff_width": [1, 0.5]}, "deep": ["none"], "D1": ["R"]}
    space = SearchSpace(name="two", options=options)

    def neighbours(name: str) -> set[str]:
        rows = space.neighbours(space.encode(Candidate(options={"E1": name, "deep": "none", "D1": "R"})))
        return {space.decode(row).options["E1"] for row in rows}

    assert neighbours("RARA_f0.5") == {"RARA", "R"}
    assert neighbours("R") == {"RARA"}
    assert neighbours("RARA") == {"RARA_f0.5", "R"}
