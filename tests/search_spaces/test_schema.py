"""The published schema is the one that the code has, and an independent validator agrees with the reader."""

import json
from importlib import resources

import jsonschema
import pytest
import yaml

from search_spaces.errors import UserError
from search_spaces.schema import json_schema
from search_spaces.space_file import parse_space, preset_names

PRESETS = resources.files("search_spaces") / "presets"
SCHEMA = json.loads((PRESETS / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_published_schema_is_up_to_date() -> None:
    # Renewed by `nanosd space schema > search_spaces/presets/schema.json`.
    assert json_schema() == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_name_their_schema(name: str) -> None:
    text = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "stages",
    [
        {"E1": ["RXA"]},
        {"E1": ["R@1"]},
        {"E1": []},
        {"E1": ["R", "R"]},
        {"E1": "R"},
        {"E1": {"word": ["R_w0.5"]}},
        {"E1": {"word": ["R"], "resnet_width": [0]}},
        {"E1": {"word": ["R"], "resnet_width": ["0.5"]}},
        {"E1": {"word": ["R"], "width": [1]}},
        {"E1": {"heads": [1]}},
        {"E1": {"word": ["R"], "conv": ["half"]}},
        {"E1": ["R_x0.5"]},
        {"D1": ["R@0"]},
        {"deep": ["R.RR"]},
        {"deep": ["R.y.R"]},
        {"VE": ["64x0"]},
        {"VE": {"width": [[64]]}},
        {"VE": {"width": [[64]], "depth": [[0]]}},
        {"VE": {"word": ["R"]}},
        {"steps": [0]},
        {"steps": ["x"]},
        {"F1": ["R"]},
        {"E1": [1]},
    ],
    ids=str,
)
def test_reader_and_schema_refuse_the_same(stages: dict[str, object]) -> None:
    data = {"name": "a", "options": {"E1": ["R"], "deep": ["none"], "D1": ["R"], **stages}}
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(UserError):
        parse_space("a.yaml", yaml.safe_dump(data, sort_keys=False))


@pytest.mark.parametrize(
    "stages",
    [
        {"E1": ["RARA_w0.5_f0.25_h0.5_cross_sep", "R"]},
        {"D1": ["RR@1+3", "RA@2_self"]},
        {"deep": ["RR.RAR.RRR", "R.x.RR_w0.5", "none"]},
        {"deep": {"word": ["none", "R.x.RR@1+2"], "conv": ["full", "separable"]}},
        {"VE": ["teacher", "64x1.32x3"], "steps": [1, "2", 1000]},
        {"VD": {"kind": ["tiny"], "width": [[64], [32, 16]], "depth": [[1], [1, 2]]}},
    ],
    ids=str,
)
def test_reader_and_schema_accept_the_same(stages: dict[str, object]) -> None:
    data = {"name": "a", "options": {"E1": ["R"], "deep": ["none"], "D1": ["R"], **stages}}
    VALIDATOR.validate(data)
    assert parse_space("a.yaml", yaml.safe_dump(data, sort_keys=False)).name == "a"


@pytest.mark.parametrize(
    ("name", "legal"), [("a_B.c-2", True), ("../a", False), ("a/b", False), (".a", False), ("", False)]
)
def test_reader_and_schema_agree_on_names(name: str, legal: bool) -> None:
    data = {"name": name, "options": {"E1": ["R"], "deep": ["none"], "D1": ["R"]}}
    assert VALIDATOR.is_valid(data) == legal
    if legal:
        assert parse_space("a.yaml", yaml.safe_dump(data, sort_keys=False)).name == name
    else:
        with pytest.raises(UserError, match=r"a\.yaml:1: name: "):
            parse_space("a.yaml", yaml.safe_dump(data, sort_keys=False))
