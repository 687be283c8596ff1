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
        (
            "[1, 0.5]",
            "[1, 1.5]",
            "6: deep.resnet_width: 1.5 is not legal; legal are shares of the teacher's from 0.0001 to 1",
        ),
        ("[1, 0.5]", "[1, true]", "6: deep.resnet_width: true is not legal; legal are shares"),
        ("[1, 0.5]", "[1, .nan]", "6: deep.resnet_width: \\.nan is not legal; legal are shares"),
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
        ("name: two", "name: 2", "1: name: 2 is not legal; legal is text, in quotes if need be"),
        (
            "name: two",
            "name: ../two",
            r"1: name: '../two' is not legal; legal are up to 100 letters, digits, '_', '\.'",
        ),
        ("name: two", "name: a/../../two", "1: name: 'a/../../two' is not legal"),
        ("name: two", "name: .two", "1: name: '.two' is not legal; .*, the first a letter or digit"),
        ("name: two", 'name: "two\\n"', r"1: name: 'two\\n' is not legal"),
        ("name: two", "name: ''", "1: name: '' is not legal"),
        ("name: two", f"name: {'x' * 101}", "1: name: 'xxx.* is not legal"),
        ("name: two", "name: 2024-13-45", "1: is not YAML: '2024-13-45' cannot be read"),
        (
            "name: two",
            "name: !!python/object:os.system x",
            "1: '!!python/object:os.system' is no type of a",
        ),
        ("name: two", "nam: two", "1: nam: there is no such key; legal are name, description, options, candidates$"),
        ("name: two", "name: 2024-01-01", "1: name: 2024-01-01 is not legal; legal is text, in quotes if need be"),
        ("RARA, RA, R]", "RARA, '']", "3: E1: '' is not legal; legal is text of at least one letter"),
        ("RARA, RA, R]", "!!binary Ug==]", "3: '!!binary' is no type of a search space"),
        ("[RARA, RA, R]", "!!set {R, RA}", "3: '!!set' is no type of a search space"),
        ("[RARA, RA, R]", "{}", r"3: E1.word: is missing; add it$"),
        (
            "RARA, RA, R]",
            f"{'R' * 100_000}]",
            r"3: E1: 'R{59}\.\.\.R{16}' has 100,000 R; legal are words of at",
        ),
        ("RARA, RA, R]", "R_w0.49999999]", "3: E1: .*resnet_width 0.49999999 has too many digits; write 0.5"),
        ("RARA, RA, R]", "R_w0.00001]", "3: E1: .*resnet_width 1e-05 is not a share .* ratios from 0.0001 to 1"),
        ("RARA, RA, R]", "R_w\u0660.\u0665]", "3: E1: 'w\u0660.\u0665' in 'R_w\u0660.\u0665' is unknown"),
        ("R@3]", "R@\u0663]", "7: D1: 'R@\u0663' names no skips after '@'"),
        ("[1, 0.5]", "[0.5, 0.49999999]", "6: deep.resnet_width: 0.49999999 is not legal; .* at most six digits"),
        ("[1, 0.5]", "[1, 0.99999999]", "6: deep.resnet_width: 0.99999999 is not legal; .* at most six digits"),
        ("[1, 0.5]", "[0.00001]", "6: deep.resnet_width: 1.0e-05 is not legal; .* from 0.0001 to 1"),
        ("[1, 0.5]", "[5e-1]", "6: deep.resnet_width: '5e-1' is text to YAML; write 0.5, without quotes or exponent"),
        ("[1, 0.5]", "[0:30.5]", "6: '0:30.5' is another number to YAML than to most readers"),
        ("resnet_width: [1, 0.5]", "conv: [full, full]", "6: deep.conv lists 'full' twice; list it once"),
        ("[3, 1]]", "[3, 01]]", "11: '01' is another number to YAML than to most readers; write it in plain digits"),
        ("[3, 1]]", "[3, 0x10]]", "11: '0x10' is another number to YAML"),
        ("kind: [teacher", "kid: [teacher", "9: VE.kid: there is no such key; legal are kind, width, depth"),
        ("  small", "  sm all", "13: candidates: 'sm all' is not legal; legal are up to 100 letters"),
        ("  small", '  "sm\\nall"', r"13: candidates: 'sm\\nall' is not legal"),
        ("  small", "  ''", "13: candidates: '' is not legal"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, expected: str) -> None:
    assert GOOD.count(old) == 1, old
    assert re.match(f"space.yaml:{expected}", refusal(GOOD.replace(old, new)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("deep: [none]", "2: options: stages are deep; a U-Net has E1, deep and D1 at least"),
        ("VE: [teacher]", "2: options: stages are VE VD steps; a U-Net has E1, deep and D1 at least"),
        ("E1: {kind: [tiny]}", "3: E1.kind: there is no such key; legal are word, resnet_width"),
        ("VE: {}", "3: VE.width: is missing; add it"),
        ("steps: {}", r"3: steps: \{\} is no list; write step counts in brackets, such as \[1, 2\]"),
        ("steps: [1.5]", "3: steps: 1.5 is not legal; legal are whole numbers from 1 to 1000"),
        ("steps: ['\u0661']", "3: steps: '\u0661' is no step count"),
        ("E10: [R]", "3: unknown stage 'E10'; stages are E1, E2, .*, up to E9"),
        ("F1: {}", "3: unknown stage 'F1'"),
        (f"VE: [{'.'.join(['8x1'] * 40)}]", "3: VE: 40 levels are too many; legal are at most 9"),
    ],
)
def test_what_is_wrong_with_the_stages_is_named(options: str, expected: str) -> None:
    assert re.match(f"space.yaml:{expected}", refusal(f"name: a\noptions:\n  {options}\n"))


@pytest.mark.parametrize(
    "options",
    [
        f"  E1: [{', '.join(['R', 'RA'] * 9_500)}]",
        f"  E1: [{', '.join(f'X{i}' for i in range(19_000))}]",
        "".join(f"  k{i}: [R]\n" for i in range(5_000)),
        f"  E1:\n    word: [{', '.join(f'X{i}' for i in range(1_000))}]\n"
        f"    heads: [{', '.join(f'0.{i}' for i in range(101, 290) if i % 10)}]",
    ],
    ids=["repeated", "wrong", "unknown-stages", "wrong-words-of-many-options"],
)
def test_many_problems_are_found_quickly(options: str) -> None:
    start = time.perf_counter()
    assert len(refusal(f"name: a\noptions:\n{options}\n")) < 300
    assert time.perf_counter() - start < 10  # a time that grows with the square would be minutes


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
    with pytest.raises(
        UserError, match="legal are bk-sdm, nanosd, nanosd-joint, nanosd-widths, tinysd, toy or the path"
    ):
        load_space("nanosdd")
    with pytest.raises(UserError, match="unknown search space"):
        load_space(str(tmp_path))
