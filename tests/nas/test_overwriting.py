"""Results are written over results of their own kind only, and never over what a run keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.overwriting import refuse_other_file, refuse_run_files, run_around
from nas.run.retarget_files import check_output
from search_spaces.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mine"
    (folder / "store").mkdir(parents=True)
    (folder / "bank").mkdir()
    (folder / "config.yaml").write_text("name: mine\n")
    (folder / "candidates.csv").write_text("id\n")
    return folder


def test_a_run_is_found_around_everything_in_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_around(run) == run == run_around(run / "bank" / "x") == run_around(run / "candidates.csv")
    assert run_around(run.parent) is None and run_around(run.parent / "other.csv") is None
    (run.parent / "link").symlink_to(run)
    assert run_around(run.parent / "link" / "new") == run
    monkeypatch.chdir(run)
    assert run_around(Path("new.csv")) == run


def test_a_runs_file_is_not_written_over(run: Path) -> None:
    with pytest.raises(UserError, match=r"candidates\.csv: is a file of run .*mine, and would be overwritten"):
        refuse_run_files(run / "candidates.csv")
    refuse_run_files(run / "new.csv")
    (run.parent / "own.csv").write_text("")
    refuse_run_files(run.parent / "own.csv")


@pytest.mark.parametrize("below", ["", "bank", "bank/new", "elsewhere"])
def test_retarget_writes_nowhere_into_a_run(run: Path, below: str) -> None:
    with pytest.raises(UserError, match=r"keeps its own files there; give a folder elsewhere, or one below .*retarget"):
        check_output(run, run / below)
    assert sorted(path.name for path in run.iterdir()) == ["bank", "candidates.csv", "config.yaml", "store"]


def test_retarget_writes_below_its_own_folder_and_elsewhere(run: Path) -> None:
    check_output(run, None)
    check_output(run, run / "retarget" / "phone")
    check_output(run, run.parent / "phone")


def test_another_kind_of_file_is_not_written_over(tmp_path: Path) -> None:
    ids = tmp_path / "ids.csv"
    refuse_other_file(ids, (".html",), "page")
    ids.write_text("id\n")
    with pytest.raises(UserError, match=r"ids\.csv: is there and no page \(\.html\)"):
        refuse_other_file(ids, (".html",), "page")
    (tmp_path / "old.HTML").write_text("")
    refuse_other_file(tmp_path / "old.HTML", (".html",), "page")
