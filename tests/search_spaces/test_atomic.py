"""What cannot be written leaves neither a part nor a temporary behind, and is one line, whoever writes."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from latency_predictors.npu.profile import NpuProfile
from search_spaces.atomic import write_bytes, write_json
from search_spaces.errors import UserError
from search_spaces.space_file import load_space
from tests.latency_predictors.made_up import synthetic


def _device_profile(path: Path) -> object:
    return synthetic(load_space("tinysd"))[0].save(path)


def _npu_profile(path: Path) -> object:
    return NpuProfile.load("sm8750-w8a16").save(path)


def _json(path: Path) -> object:
    return write_json(path, list(range(10_000)))


WRITERS: list[Callable[[Path], object]] = [_device_profile, _npu_profile, _json]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path, write: Callable[[Path], object]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*is no folder; choose another place$"):
        write(tmp_path / "file" / "x.json")


@pytest.mark.parametrize("write", WRITERS)
def test_no_room_keeps_the_old_file_and_no_temporary(tmp_path: Path, write: Callable[[Path], object]) -> None:
    target = write_bytes(tmp_path / "x.json", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(
            UserError,
            match=r"^cannot write .*x\.json: File too large; raise the limit on the size of files \(ulimit -f\)$",
        ):
            write(target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.json"]


def test_the_new_file_is_whole(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "x", b"old")
    assert write_bytes(tmp_path / "deep" / "x", b"new").read_bytes() == b"new"
    assert write_json(tmp_path / "y", {"a": 1}).read_text() == '{\n "a": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "z", float("nan"))
    assert not (tmp_path / "z").exists()
