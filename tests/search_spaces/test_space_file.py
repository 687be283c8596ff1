"""Search spaces as files: what is wrong is named with its line, quickly; the published schema agrees."""

import re
import time
from pathlib import Path

import pytest

from search_spaces.errors import UserError
from search_spaces.space_file import load_space, parse_space

GOOD = """\
name: two
options:
  E1: [RARA, RA, R]
  deep:
    word: [none, R.x.RR]
    resnet_width: [1, 0.5]
  D1: [RARARA, R@3]
  VE:
    kind: [teacher, tiny]
    width: [[64, 32], [64]]
    depth: [[1], [3, 1]]
candidates:
  small: R-none-R@3-32x1.64x1-teacher-1
"""


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        parse_space("space.yaml", text)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_file_is_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(GOOD)
    space = load_space(str(tmp_path / "two.yaml"))
    assert space.model_dump() == parse_space("elsewhere.yaml", GOOD).model_dump()
    assert space.stages == ("E1", "deep", "D1", "VE", "VD", "steps")
    # deep: none (whatever the width) and two widths; VE: the teacher's and 2 x 1 x 1 x 2 tiny ones.
    assert space.stage_sizes == (3, 3, 2, 5, 1, 1)
    assert space.named("small").options["D1"] == "R@3"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("RARA, RA, R]", "RARA, RXA, R]", "3: E1: 'RXA' is not a word over R and A"),
        ("RARA, RA, R]", "RARA, A, RXA]", r"3: E1: 'A' is not a word.*\(and 1 more after this\)"),
        ("RARA, RA, R]", "RA, RA]", "3: E1 lists 'RA' twice; list it once"),
        ("RARA, RA, R]", "RARA, R@1]", "3: E1: 'R@1' is not a word"),
        ("[RARA, RA, R]", "RARA", "3: E1: 'RARA' is no list"),
        ("[RARA, RA, R]", "[]", "3: E1 has no options; give it at least one"),
        ("R.x.RR]", "R.y.RR]", "5: deep: 'y' is not a word"),
        ("R.x.RR]", "R.RR]", "5: deep: 'R.RR' is no option; write 'none' or three words"),
        ("R.x.RR]", "R.x.RR_w0.5]", "5: deep: word 'R.x.RR_w0.5' names internals"),
        ("[1, 0.5]", "[1, 1.5]", "6: deep.resnet_width: 1.5 is not legal; legal are shares of the teacher's, above 0"),
        ("[1, 0.5]", "[1, true]", "6: deep.resnet_width: True is not legal; legal are shares"),
        ("[1, 0.5]", "[1, .nan]", "6: deep.resnet_width: nan is not legal; legal are shares"),
        ("[1, 0.5]", "[]", "6: deep.resnet_width: is empty; give at least one"),
        ("resnet_width", "resnet_widht", "6: deep.resnet_widht: there is no such key; legal are word, resnet_width"),
        ("R@3]", "RR@3+1]", "7: D1: 'RR@3\\+1' must name 2 of the skips 1 to 9, in rising order"),
        ("D1:", "D3:", "2: options: stages are E1 deep D3; legal is E1 deep D1, in that order"),
        ("D1:", "F1:", "7: unknown stage 'F1'; stages are E1"),
        ("D1:", "E1:", "7: key 'E1' is given twice, first in line 3"),
        ("D1:", "1:", "7: '1' is used as a key; keys are text"),
        ("[3, 1]]", "[3, 1], [1]]", "8: VE: width has 2 levels and depth 3; give one list a level in both"),
        ("[3, 1]]", "[3, 0]]", "11: VE.depth: 0 is not legal; legal are lists of whole numbers from 1 to 99"),
        ("[3, 1]]", "[3, '1']]", "11: VE.depth: '1' is not legal; legal are lists of whole numbers from 1 to 99"),
        ("teacher, tiny", "teachers", "9: VE.kind: 'teachers' is not legal; legal is 'teacher' or 'tiny'"),
        ("R-none-R@3", "R-none-RR", "13: candidate small: option 'RR' of stage D1 is not in search space 'two'"),
        ("R-none-R@3", "R-R@3", "13: candidate small: candidate 'R-R@3.*' has 5 options"),
        ("name: two", "name: [two", "2: is not YAML: .*expected ',' or ']'"),
        ("name: two", "name: 2", "1: name: 2 is not legal; legal is a valid string"),
        ("name: two", "name: 2024-13-45", "1: is not YAML: '2024-13-45' cannot be read"),
        ("name: two", "name: !!python/object:os.system x", "1: is not YAML: could not determine a constructor"),
        ("name: two", "nam: two", r"1: name: is missing; add it \(and 1 more after this\)"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1, old
    assert re.match(f"space.yaml:{expected}", refusal(GOOD.replace(old, new)))


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text", "3"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert re.match("space.yaml:1: (is empty|must be a YAML mapping)", refusal(text))


def test_lines_are_found_through_merges_and_aliases() -> None:
    text = "name: a\noptions:\n  E1: &e\n    word: [R]\n    heads: [2]\n"
    text += "  deep: [none]\n  D1:\n    <<: *e\n    word: [RX]\n"
    assert refusal(text).startswith("space.yaml:5: E1.heads: 2 is not legal")
    assert refusal(text.replace("[2]", "[1]")).startswith("space.yaml:9: D1: 'RX' is not a word")
    assert parse_space("a", text.replace("[2]", "[1]").replace("RX", "RA")).options["D1"] == ("RA",)


def alias_bomb(levels: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines = [f"{letters[i]}: &{letters[i]} [{', '.join(['*' + letters[i - 1]] * 9)}]" for i in range(1, levels)]
    return "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]", *lines])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (alias_bomb(20), "with its aliases written out; a search space has at most 20,000, nested 16 deep"),
        ("\n".join(["k0: &k0 [1]", *(f"k{i}: &k{i} [*k{i - 1}]" for i in range(1, 3000))]), "nested 17 deep"),
        ("<<: &a {x: 1}\n" + alias_bomb(9).replace("[", "{<<: [").replace("]", "]}"), "space.yaml:"),
        ("a: &a [*a]", "an alias contains itself"),
        ("a: " + "[" * 5000, "nested too deeply"),
        ("a: " + "[" * 50 + "]" * 50, "nested too deeply"),
        ("# " + "x" * 300_000, "has 300,002 characters"),
        ("name: " + "9" * 5000, "cannot be read"),
        ("name: \x00", "special characters are not allowed"),
    ],
)
def test_bombs_are_refused_at_once(text: str, expected: str) -> None:
    start = time.perf_counter()
    assert expected in refusal(text)
    assert time.perf_counter() - start < 5  # written out, the aliases are 9 to the power of 20 values


def test_unreadable_and_unknown_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: é".encode("latin-1"))
    with pytest.raises(UserError, match="give a YAML file in UTF-8"):
        load_space(str(tmp_path / "latin.yaml"))
    with pytest.raises(UserError, match="legal are bk-sdm, nanosd, nanosd-joint, tinysd, toy or the path"):
        load_space("nanosdd")
    with pytest.raises(UserError, match="unknown search space"):
        load_space(str(tmp_path))
