"""Published folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from nas.export.folders import publish_folder
from search_spaces.errors import UserError

DEAD = "99999999"  # above the kernel's largest process id


def ours(folder: Path) -> bool:
    return (folder / "mark").is_file()


def writer(text: str):
    def write(folder: Path) -> None:
        (folder / "mark").write_text(text)

    return write


def test_new_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "a" / "variant[1]"
    publish_folder(target, writer("one"), ours)
    publish_folder(target, writer("two"), ours)
    assert (target / "mark").read_text() == "two"
    assert os.listdir(target.parent) == ["variant[1]"]


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "v"
    publish_folder(target, writer("one"), ours)

    def write(folder: Path) -> None:
        (folder / "mark").write_text("two")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        publish_folder(target, write, ours)
    assert (target / "mark").read_text() == "one"
    assert os.listdir(tmp_path) == ["v"]


def test_a_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not an exported variant: legal is"):
        publish_folder(tmp_path, writer("x"), ours)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_as_the_umask_has_them(tmp_path: Path, umask: int, mode: int) -> None:
    def write(folder: Path) -> None:
        (folder / "unet").mkdir()
        save_file({"a": np.zeros(3)}, folder / "unet" / "weights.safetensors")
        (folder / "mark").write_text("x")
        (folder / "mark").chmod(0o600)

    before = os.umask(umask)
    try:
        publish_folder(tmp_path / "v", write, ours)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "v").rglob("*") if path.is_file()}
    assert modes == {"weights.safetensors": mode, "mark": mode}


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    publish_folder(tmp_path / "v", writer("one"), ours)
    assert (tmp_path / "v" / "mark").read_text() == "one"


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    for kind in ("partial", "replaced"):
        (tmp_path / f".v.{kind}-{DEAD}-0a").mkdir()
    living = tmp_path / f".v.partial-{os.getppid()}-0a"
    living.mkdir()
    (tmp_path / "v").mkdir()
    publish_folder(tmp_path / "v", writer("one"), ours)
    assert sorted(os.listdir(tmp_path)) == sorted(["v", living.name])


def test_an_old_folder_caught_between_the_renames_comes_back(tmp_path: Path) -> None:
    replaced = tmp_path / f".v.replaced-{DEAD}-0a"
    replaced.mkdir()
    (replaced / "mark").write_text("old")

    def write(folder: Path) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        publish_folder(tmp_path / "v", write, ours)
    assert (tmp_path / "v" / "mark").read_text() == "old"
    assert os.listdir(tmp_path) == ["v"]


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*; legal is a writable folder") as caught:
        publish_folder(tmp_path / "file" / "v", writer("x"), ours)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["(f / 'mark').write_bytes(bytes(200_000))", "save_file({'a': big}, f / 'mark')"])
def test_a_full_disk(tmp_path: Path, how: str) -> None:
    # A limit on the size of files makes the kernel refuse the write, as a full disk does.
    code = f"""
import resource, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from nas.export.folders import publish_folder
from search_spaces.errors import UserError
big = numpy.zeros(50_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    publish_folder(Path(sys.argv[1]), lambda f: {how}, lambda f: True)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "v")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=True,
    )
    assert "cannot write" in done.stdout and done.stdout.count("\n") == 1 and not done.stderr
    assert os.listdir(tmp_path) == []
