"""`nanosd space`: what it prints is what there is."""

import json
from pathlib import Path

import pytest

from experiments.cli import app
from experiments.exits import run_app
from search_spaces.schema import json_schema
from search_spaces.space_file import load_space


def test_show_lists_every_decision(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["space", "show", "nanosd-joint", "--json"]) == 0
    shown, space = json.loads(capsys.readouterr().out), load_space("nanosd-joint")
    assert shown["num_candidates"] == space.num_candidates >= 10**12
    assert shown["candidates"] == space.candidates
    decisions = {name: values for stage in shown["stages"] for name, values in stage["decisions"].items()}
    assert {name: tuple(map(str, values)) for name, values in decisions.items()} == {
        decision.name: decision.values for decision in space.decisions
    }
    for name, values in decisions.items():
        is_number = "width" in name or "depth" in name or name.endswith(".heads") or name == "steps"
        assert all(isinstance(value, (int, float) if is_number else str) for value in values), name
    assert [stage["num_options"] for stage in shown["stages"]] == list(space.stage_sizes)

    assert run_app(app, ["space", "show", "nanosd"]) == 0
    printed = capsys.readouterr().out
    assert "32,768" in printed
    assert all(text in printed for text in load_space("nanosd").candidates.values())


def test_new_then_show_then_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    assert run_app(app, ["space", "new", "--teacher", "toy", "-o", str(file)]) == 0
    assert run_app(app, ["space", "show", str(file), "--teacher", "toy", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert shown["name"] == "mine" and shown["fits_teacher"] == "toy"

    assert run_app(app, ["space", "new", "--teacher", "toy", "-o", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    file.write_text(file.read_text().replace("RARA, RA, RR, R]", "RARARA, RA, RR, R]", 1))
    assert run_app(app, ["space", "show", str(file), "--teacher", "toy"]) == 2
    assert "teacher: option 'RARA' of stage E1 is not in search space" in capsys.readouterr().err
    file.write_text(file.read_text().replace("teacher: RARA-", "teacher: RARARA-"))
    assert run_app(app, ["space", "show", str(file)]) == 0  # some teacher could have three layers there
    assert run_app(app, ["space", "show", str(file), "--teacher", "toy"]) == 2
    error = capsys.readouterr().err
    line = 1 + next(i for i, text in enumerate(file.read_text().splitlines()) if "word: [RARARA, RA" in text)
    assert f"{file}:{line}: E1: 'RARARA' has 3 R but the teacher's RARA has 2" in error


def test_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["space", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_a_folder_without_configurations_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"_class_name": "PriorTransformer"}')
    assert run_app(app, ["space", "new", "--teacher", str(tmp_path)]) == 2
    assert "is of 'PriorTransformer'; legal is 'UNet2DConditionModel'" in capsys.readouterr().err
    (tmp_path / "unet" / "config.json").write_text("{")
    assert run_app(app, ["space", "new", "--teacher", str(tmp_path)]) == 2
    assert "config.json cannot be used" in capsys.readouterr().err
