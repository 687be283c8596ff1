"""Tar shards as the library `webdataset` writes them: files of one sample share the name up to the first dot.

Read with the standard library, in order and without extracting anything, so that nothing a tar names is ever
created. (Format: https://github.com/webdataset/webdataset, "The WebDataset Format".)
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from nas.data.sources import Entry, ImageSource
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

_IMAGES = ("jpg", "jpeg", "png", "webp", "bmp")
_TEXT = ("txt", "caption", "text")
# Larger members are no image or caption that anybody meant.
_LARGEST_BYTES = 256 * 2**20
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def shard_paths(pattern: str) -> list[Path]:
    """The .tar files of a folder, a path, a glob or a range such as `data/{000..127}.tar`, sorted.

    Raises:
        UserError: there are none, or one of a range is missing.
    """
    found = _RANGE.search(pattern)
    if found:
        first, last = found.groups()
        numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        paths = [Path(pattern[: found.start()] + n + pattern[found.end() :]) for n in numbers]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise UserError(f"data.shards: {missing[0]} does not exist ({len(missing)} of {len(paths)} are missing)")
    elif Path(pattern).is_dir():
        paths = sorted(Path(pattern).glob("*.tar"))
    else:
        paths = sorted(map(Path, glob(pattern))) if has_magic(pattern) else [Path(pattern)]
        paths = [path for path in paths if path.is_file()]
    if not paths:
        raise UserError(f"data.shards: {pattern!r} names no .tar file; give a folder, a pattern or {{000..127}}.tar")
    return paths


def shard_source(pattern: str, size: int, seed: int) -> ImageSource:
    """Square crops of the images in tar shards, in the order of the shards.

    Captions come from `.txt` (`.caption`, `.text`), or from `.json` with `caption` or `text`; a sample without has the
    empty one. A sample without an image, and what follows damage in a tar, count as unreadable.

    Raises:
        UserError: no such shards.
    """
    paths = shard_paths(pattern)
    counts: dict[Path, int] = {}  # of shards gone through, so that a later turn or a resumed one skips them whole

    def entries(skip: int) -> Iterator[Entry]:
        for path in paths:
            if path in counts and counts[path] <= skip:
                skip -= counts[path]
                continue
            number = 0
            for number, entry in enumerate(_samples(path), start=1):
                if number > skip:
                    yield entry
            counts[path] = number
            skip = max(0, skip - number)

    return ImageSource(entries, size, seed, f"data.shards: none of the images in {pattern!r} can be read; replace them")


def _samples(path: Path) -> Iterator[Entry]:
    """Samples of one tar; images are read when they are asked for, captions at once."""
    name: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if not member.isfile():  # no links, devices or folders
                    continue
                folder, _, file = member.name.rpartition("/")
                stem, _, suffix = file.partition(".")
                sample = f"{folder}/{stem}" if folder else stem
                if sample != name:
                    if name is not None:
                        yield _entry(path, tar, name, members)
                    name, members = sample, {}
                members[suffix.lower()] = member
                tar.members = []  # type: ignore[attr-defined]  # else every header of a shard stays in memory
            if name is not None:
                yield _entry(path, tar, name, members)
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = f"{path.name} is damaged ({error})"
        yield Entry(f"{path.name}: after {name}", partial(_unreadable, reason), "")


def _entry(path: Path, tar: tarfile.TarFile, name: str, members: dict[str, tarfile.TarInfo]) -> Entry:
    label = f"{path.name}: {name}"
    image = next((members[suffix] for suffix in _IMAGES if suffix in members), None)
    caption = _caption(tar, members)
    if image is None:
        return Entry(label, partial(_unreadable, "no image"), caption)
    return Entry(label, partial(_open, tar, image), caption)


def _caption(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> str:
    for suffix in _TEXT:
        if suffix in members:
            return " ".join(_read(tar, members[suffix]).decode("utf-8", errors="replace").split())
    if "json" in members:
        try:
            record = json.loads(_read(tar, members["json"]))
            text = record.get("caption", record.get("text", ""))
            return " ".join(str(text or "").split())
        except (ValueError, AttributeError):
            return ""
    return ""


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _LARGEST_BYTES:
        raise OSError(f"{member.name} has {member.size} bytes")
    file = tar.extractfile(member)
    assert file is not None  # only regular files are asked for
    with file:
        return file.read()


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(_read(tar, member)))


def _unreadable(reason: str) -> Image.Image:
    raise OSError(reason)
