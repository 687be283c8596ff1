"""Places that cannot be written are found by trying, and nothing of the trial stays."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from search_spaces.errors import UserError
from search_spaces.places import check_file, check_folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refusal(path: Path, *, is_folder: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        check_folder(path, "--out", ("a.csv", "b.json")) if is_folder else check_file(path, "--out")
    said = str(caught.value)
    assert said.startswith(f"--out {path}: cannot be written (") and "\n" not in said
    assert said.endswith(
        "give a folder that can be written" if is_folder else "give the path of a file that can be written"
    )
    return re.findall(r"cannot be written \((.*)\); give", said)[0]


def test_what_can_be_written_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.json").write_text("kept")
    (tmp_path / "link.json").symlink_to(tmp_path / "old.json")
    before = tree(tmp_path)
    for name in ("new.json", "old.json", "link.json", "deep/er/new.json"):
        check_file(tmp_path / name, "--out")
        assert tree(tmp_path) == before
    for name in ("", "folder", "deep/er/folder"):
        check_folder(tmp_path / name, "--out", ("old.json",))
        assert tree(tmp_path) == before
    monkeypatch.chdir(tmp_path)
    check_file(Path("new.json"), "--out")
    check_folder(Path("a/../b"), "--out")
    assert tree(tmp_path) == before


def test_what_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder" / "a.csv").mkdir(parents=True)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    before = tree(tmp_path)
    assert refusal(tmp_path / "folder") == f"{tmp_path}/folder is a folder"
    assert refusal(tmp_path / "file" / "deep" / "x") == f"{tmp_path}/file is no folder"
    assert refusal(tmp_path / "file", is_folder=True) == f"{tmp_path}/file is no folder"
    assert refusal(tmp_path / "folder", is_folder=True) == f"{tmp_path}/folder/a.csv is a folder"
    assert refusal(tmp_path / "pipe") == f"{tmp_path}/pipe is a device or a pipe"
    assert refusal(Path("/dev/null")) == "/dev/null is a device or a pipe"
    assert refusal(tmp_path / "nowhere" / "x").startswith(f"folder {tmp_path}/nowhere cannot be made")
    assert refusal(tmp_path / "new" / ("n" * 250)).endswith("File name too long")
    assert refusal(Path("/proc/x/y"), is_folder=True).startswith("folder /proc/x cannot be made: ")
    assert refusal(Path("/proc/x.json")).startswith("/proc: ")
    assert tree(tmp_path) == before


def test_no_room_is_found(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        said = refusal(tmp_path / "deep" / "x.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said == f"{tmp_path}/deep: File too large" and list(tmp_path.iterdir()) == []
