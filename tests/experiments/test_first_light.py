"""What the benchmark prints comes from the run's files; without a run it says how to make one."""

import json
import math
import shutil
from pathlib import Path

import pytest

from experiments.bench import first_light, readme_picture
from tests import synthetic_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.make_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_json_has_the_files_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_light.main(["--run", str(folder), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    written = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("timings", "closing", "picks")}
    assert figures["seconds_per_phase"] == written["timings"]["phases"]
    assert figures["seconds"] == pytest.approx(sum(written["timings"]["phases"].values()))
    assert (figures["num_evaluated"], figures["num_failed"], figures["num_infeasible"]) == (46, 2, 0)
    assert (figures["latency_error_median_pct"], figures["latency_error_worst_pct"]) == pytest.approx((6.5, 12.0))
    assert figures["num_unseen_unets"] == 12
    assert 0 < figures["hypervolume"] < 1 and 0 < figures["front_size"] <= 46
    assert [pick["pick"] for pick in figures["picks"]] == list(written["picks"])
    for pick, row in zip(figures["picks"], written["closing"]["rows"][1:], strict=True):
        assert pick["speed_up"] == row["speed_up"] and pick["after_alignment"] == row["after"]
        assert pick["candidate"] == written["picks"][pick["pick"]]["candidate"]
    assert figures["missing"] == {}


def test_text_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_light.main(["--run", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "46 evaluated of 32,768, 2 failed" in out
    assert "median error 6.5 %, worst 12.0 %" in out
    assert all(phase in out for phase in ("calibrate", "distill", "search"))
    assert all(pick in out for pick in ("fastest", "smallest", "prime", "budget"))


@pytest.mark.parametrize("main", [first_light.main, readme_picture.main])
def test_without_a_run_it_says_which_command_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], main: object
) -> None:
    assert callable(main)
    assert main(["--run", str(tmp_path / "none")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "python -m nox -s quickstart" in line


def test_an_unfinished_run_has_nulls_and_says_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("closing.json", "device_profile.json"):
        (folder / name).unlink()
    assert first_light.main(["--run", str(folder), "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["latency_error_worst_pct"] is None and figures["picks"] == []
    assert set(figures["missing"]) == {"closing", "device"}
    assert first_light.main(["--run", str(folder)]) == 1
    assert "closing.json is not in this run directory" in capsys.readouterr().out


def test_an_empty_run_is_no_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert first_light.main(["--run", str(tmp_path), "--json"]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert figures["hypervolume"] is None and figures["num_evaluated"] == 0
    assert not any(isinstance(v, float) and math.isnan(v) for v in figures.values())
    assert readme_picture.main(["--run", str(tmp_path)]) == 2


def test_the_readme_has_the_two_commands_alone_on_their_lines() -> None:
    lines = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8").splitlines()
    for session in ("quickstart", "tests"):
        first = next(line for line in lines if f"nox -s {session}" in line)
        assert first == f"python -m pip install nox && python -m nox -s {session}"


@pytest.mark.slow
def test_the_picture_is_drawn(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "images" / "front.png"
    code = readme_picture.main(["--run", str(folder), "--out", str(out)])
    if code == 2:
        pytest.skip("neither Chromium nor kaleido works here")
    with Image.open(out) as picture:
        assert picture.width == 2 * 1280 and len(picture.convert("L").getcolors(maxcolors=256) or []) > 10
