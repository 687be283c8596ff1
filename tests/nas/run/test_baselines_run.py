"""Baselines of a small run of the toy teacher: refused before it is finished, killed, resumed, and not made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nas.baselines import Baselines, read_baselines
from nas.config import Recipe
from nas.run.directory import RunDirectory
from tests.commands import start
from tests.nas.run.test_loop import RECIPE, SPACE, finish, here, kill_when


def test_a_run_without_finished_picks_is_refused_in_one_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create(Recipe())
    _, said = here("baselines", run.path, code=2)
    assert len(said.strip().splitlines()) == 1 and "is not finished" in said
    assert not (run.path / "baselines.json").exists()


def scores(record: Baselines) -> dict[str, object]:
    """Everything but latencies, which another measurement gives others."""
    return {e.name: (e.candidate, e.num_params, e.num_macs, e.before, e.after, e.aligned) for e in record.entries}


@pytest.mark.slow
def test_killed_baselines_end_as_uninterrupted_ones_and_are_not_made_twice(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(space=tmp_path / "space.yaml"))
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    finish("search", "--config", tmp_path / "recipe.yaml", "--run", killed)
    shutil.copytree(killed, whole)
    finish("baselines", whole, "--front", "1")
    record = read_baselines(whole / "baselines.json")
    assert record is not None
    assert [e.name for e in record.baselines] == ["bk-sdm-tiny", "tinysd", "uniform-width"]
    by_name = {e.name: e for e in record.entries}
    tiny, whole_net, prime = by_name["bk-sdm-tiny"], by_name["tinysd"], json.loads((whole / "picks.json").read_text())
    assert tiny.candidate == whole_net.candidate == "RA-RA-RA-none-RARA-RARA-RARA" and tiny.num_params == 836_644
    assert (tiny.num_block_steps, tiny.num_output_steps) == (6, 4) == (6, whole_net.num_output_steps - 6)
    assert by_name["uniform-width"].num_params == pytest.approx(prime["prime"]["num_params"], rel=0.25)
    timed = json.loads((whole / "work" / "baselines" / "layout_latency.json").read_text())["latency_ms"]
    assert set(timed) <= {e.name for e in record.baselines if e.predicted_ms is None}
    rival = by_name["uniform-width"].rival
    if rival is not None and "uniform-width" in timed:
        assert by_name[rival.searched].predicted_ms <= timed["uniform-width"]
        assert by_name[rival.searched].num_params <= by_name["uniform-width"].num_params
    closing = {row["pick"]: row for row in json.loads((whole / "closing.json").read_text())["rows"]}
    picked = [e for e in record.searched if e.name in closing]
    assert picked, "the picks are among them"
    for entry in picked:  # as the run itself finished them
        assert entry.after == closing[entry.name]["after"] and entry.num_params == closing[entry.name]["num_params"]
    assert {path.name for path in (whole / "baselines").iterdir()} == {"captions.json", "teacher", *by_name}
    assert "Against layouts made by hand" in (whole / "report.html").read_text()

    work = killed / "work" / "baselines"
    work.mkdir(parents=True)  # one measurement for both: another may choose another rival
    shutil.copy(whole / "work" / "baselines" / "layout_latency.json", work)
    for sign in ("uniform-width/distill.safetensors", "layouts-0/align.safetensors", "tinysd/align.safetensors"):
        kill_when(start("baselines", killed, "--front", "1"), (work / sign).exists, sign)
        assert not (killed / "baselines.json").exists()
    finish("baselines", killed, "--front", "1")
    again = read_baselines(killed / "baselines.json")
    assert again is not None and scores(again) == scores(record)
    written = (killed / "baselines.json").stat().st_mtime_ns
    said = json.loads(here("baselines", killed, "--front", "1", "--json")[0])
    assert said["key"] == again.key and (killed / "baselines.json").stat().st_mtime_ns == written
    finish("baselines", killed, "--front", "0", "--uniform-params", "837000")
    larger = read_baselines(killed / "baselines.json")
    assert larger is not None and larger.key != again.key
    size = next(e.num_params for e in larger.baselines if e.name == "uniform-width")
    assert size == pytest.approx(837_000, rel=0.02) and size != by_name["uniform-width"].num_params
