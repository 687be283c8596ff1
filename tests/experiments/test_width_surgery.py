"""Slimmer stages start nearer to the teacher's than with the first channels, and those nearer than at random."""

import json

import pytest
import torch

from experiments.bench import width_surgery
from nas.teacher import Teacher
from search_spaces.surgery import build_stage

KINDS = ("w0.5", "f0.5", "h0.5", "cross", "sep")


@pytest.fixture(scope="module")
def rows(toy_teacher: Teacher) -> list[width_surgery.Row]:
    return width_surgery.measure(toy_teacher, num_images=16, kinds=KINDS)


def test_importance_is_nearer_than_the_first_and_those_than_random(rows: list[width_surgery.Row]) -> None:
    means = width_surgery.summary(rows)
    assert means["num_rows"] == 3 * 7  # width, units and heads of every stage
    assert means["importance"] < 0.75 * means["first"] < 0.75**2 * means["random"]
    assert means["num_nearer"] > 0.8 * means["num_rows"]


def test_rows_have_what_there_is_to_compare_with(rows: list[width_surgery.Row]) -> None:
    assert len(rows) == 5 * 7
    for row in rows:
        assert (row.first is None) == row.option.endswith("_sep")
        assert (row.random is None) == row.option.endswith("_cross")


def test_errors_are_those_of_the_built_stage(toy_teacher: Teacher, rows: list[width_surgery.Row]) -> None:
    row = next(row for row in rows if (row.stage, row.option) == ("E2", "RARA_w0.5"))
    io = width_surgery.recorded_features(toy_teacher, 16, seed=0)["E2"]
    with torch.no_grad():
        outputs = torch.cat([o.flatten() for o in build_stage(toy_teacher.unet, "E2", row.option)(*io.inputs)])
    targets = torch.cat([t.flatten() for t in io.outputs])
    assert row.importance == pytest.approx(float((outputs - targets).norm() / targets.norm()), rel=1e-4)


def test_the_command_prints_json(rows: list[width_surgery.Row], capsys: pytest.CaptureFixture[str]) -> None:
    assert width_surgery.main(["--images", "4", "--json"]) == 0
    options = {(row["stage"], row["option"]) for row in json.loads(capsys.readouterr().out)["rows"]}
    assert options > {(row.stage, row.option) for row in rows}
    assert width_surgery.main(["--images", "0"]) == 2
    assert "--images 0 is too few" in capsys.readouterr().err
