"""Many ids at once, against reading and writing them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.id_columns import id_column, read_ids
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space


@pytest.mark.parametrize("name", ["nanosd", "nanosd-joint", "tinysd"])
def test_what_is_written_is_read_back(name: str) -> None:
    space = load_space(name)
    matrix = space.sample(np.random.default_rng(0), 300)
    ids = id_column(space, matrix)
    assert ids.to_pylist() == [space.decode(row).id for row in matrix]
    again, rows = read_ids("\n".join(ids.to_pylist()).encode(), space, "x")
    assert again.to_pylist() == ids.to_pylist()
    assert np.array_equal(rows, matrix)


@pytest.mark.parametrize("text", ["{a}\r\n\r\n{b}\r\n", "\n\n  {a}\t\n{b}", "{a}\n{b}\n"])
def test_blanks_do_not_matter(text: str) -> None:
    space = load_space("nanosd")
    pair = [space.decode(row).id for row in space.sample(np.random.default_rng(1), 2)]
    ids, rows = read_ids(text.format(a=pair[0], b=pair[1]).encode(), space, "x")
    assert ids.to_pylist() == pair
    assert [space.decode(row).id for row in rows] == pair


def test_a_line_that_is_wrong_is_named_wherever_it_is() -> None:
    space = load_space("nanosd")
    good = [space.decode(row).id for row in space.sample(np.random.default_rng(2), 5000)]
    for number in (1, 2500, 5000):
        for wrong, words in (("R-R", "has 2 options"), (GOOD + "x", "of stage D1"), ("\udcff", "not UTF-8")):
            later = "R-R" if wrong == "\udcff" else "\udcff"
            lines = [*good[: number - 1], wrong, *good[number:-1], later]
            with pytest.raises(UserError, match=f"ids, line {number}: .*{words}"):
                read_ids("\n".join(lines).encode("utf-8", "surrogateescape"), space, "ids")


GOOD = "RARA-RA-R-none-RARARA-RR-R@3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}\n\n{GOOD}\nR-R\n", r"ids\.txt, line 4: candidate 'R-R' has 2 options"),
        (f"{GOOD}\n{GOOD.replace('RARARA', 'RRRR')}\nR-R\n", r"ids\.txt, line 2: option 'RRRR' of stage D3"),
        (f'"{GOOD}"\n', r"ids\.txt, line 1: option '\"RARA'"),
        (f"{GOOD},1.5\n", r"ids\.txt, line 1: option 'R@3,1\.5'"),
        ("", r"ids\.txt: no candidates in it"),
        (" \n\n", r"ids\.txt: no candidates in it"),
        (f"{GOOD}\n\udcff\n", r"ids\.txt, line 2: not UTF-8 text"),
    ],
)
def test_the_line_that_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_ids(text.encode("utf-8", "surrogateescape"), load_space("nanosd"), "ids.txt")
    assert "\n" not in str(caught.value)


SMALL = SearchSpace(name="small", options={"E1": ("RA", "R"), "deep": ("none",), "D1": ("R", "RA")})
WORDS = st.lists(st.sampled_from(["RA", "R", "none", "", " ", "RR", "-", "\x1f", "\x00", "é", "\x85"]), max_size=4)


@given(st.lists(WORDS.map("-".join), max_size=5))
def test_any_text_is_read_as_line_by_line(lines: list[str]) -> None:
    text = "\n".join(lines).encode()
    wanted: list[str] | None = []
    for line in text.decode().split("\n"):
        if line.strip():
            try:
                SMALL.encode(Candidate.from_id(line.strip(), SMALL.stages))
                assert wanted is not None
                wanted.append(line.strip())
            except UserError:
                wanted = None
                break
    if wanted:
        assert [i.strip() for i in read_ids(text, SMALL, "x")[0].to_pylist()] == wanted
    else:
        with pytest.raises(UserError):
            read_ids(text, SMALL, "x")
