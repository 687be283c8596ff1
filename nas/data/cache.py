"""Latents and text embeddings in safetensors shards: encoded once, gone on with after a kill, read row by row.

A folder holds `latents-00000.safetensors` ... (rows, captions, and where the source was after them),
`prompts-00000.safetensors` ... (embeddings of the unique captions) and, written last, `index.json`. Reading maps
the shards into memory, so that only the rows of a batch are in it; captions are in memory, about 100 bytes each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from nas.atomic import stream_tensors, write_json
from nas.data.dataset import LatentDataset, data_key, unique_captions
from nas.data.sources import Place, Source
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher

# Multiples of 64, the most that is encoded at once: the same batches go through the encoders as without shards.
LATENTS_A_SHARD = 1024
PROMPTS_A_SHARD = 256


class ShardRows:
    """Rows (N, ...) float32 of one tensor over several safetensors files, mapped into memory."""

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self._maps = [_mapped(path, name) for path in paths]
        self._ends = np.cumsum([len(part) for part in self._maps])

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._maps[0].shape[1:])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Tensor) -> Tensor:
        rows = index.numpy()
        shards = np.searchsorted(self._ends, rows, side="right")
        out = np.empty((len(rows), *self.shape[1:]), np.float32)
        for shard in np.unique(shards):
            here = shards == shard
            before = 0 if shard == 0 else int(self._ends[shard - 1])
            out[here] = self._maps[shard][rows[here] - before]
        return torch.from_numpy(out)


def cached(
    folder: Path,
    key: str,
    source: Callable[[], Source],
    teacher: Teacher,
    num: int,
    on_progress: Callable[[int], None] | None = None,
    latents_a_shard: int = LATENTS_A_SHARD,
) -> LatentDataset:
    """`num` items of a source as latents in `folder`; what an earlier process encoded is kept.

    Args:
        key: names everything that decides the data; shards of another key are written over.
        on_progress: called with the number of latents that are there.

    Raises:
        UserError: nothing in the source can be read, or the folder cannot be written.
    """
    index = _index(folder, key)
    if index is None:
        paths = _encode_latents(folder, key, source, teacher, num, on_progress, latents_a_shard)
        captions = [caption for path in paths for caption in json.loads(_header(path)["captions"])]
        skipped = list(dict.fromkeys(name for path in paths for name in json.loads(_header(path)["skipped"])))
        rows = ShardRows(paths, "latents")
        parts = (rows[i] for i in torch.arange(len(rows)).split(latents_a_shard))
        found = data_key(rows.shape, parts, captions)
        prompts = _encode_prompts(folder, f"{key} {found}", teacher, unique_captions(captions))
        index = {
            "key": key,
            "data_key": found,
            "latents": [path.name for path in paths],
            "prompts": [path.name for path in prompts],
            "skipped": skipped,
        }
        write_json(folder / "index.json", index)
    paths = [folder / name for name in index["latents"]]
    captions = [caption for path in paths for caption in json.loads(_header(path)["captions"])]
    prompts_rows = ShardRows([folder / name for name in index["prompts"]], "prompts")
    if on_progress is not None:
        on_progress(len(captions))
    return LatentDataset(
        ShardRows(paths, "latents"), captions, tuple(index["skipped"]), prompts_rows, str(index["data_key"])
    )


def is_complete(folder: Path, key: str) -> bool:
    """Whether `cached` would have nothing to encode."""
    return _index(folder, key) is not None


def in_memory(source: Source, teacher: Teacher, num: int) -> LatentDataset:
    """`num` items of a source as latents in memory."""
    if num < 1:
        raise UserError(f"number of images {num} is too small: at least 1 is needed")
    latents, captions, skipped, _ = _take(source, Place(), teacher, num)
    return LatentDataset(latents, captions, tuple(dict.fromkeys(skipped)))


def _take(source: Source, place: Place, teacher: Teacher, num: int) -> tuple[Tensor, list[str], list[str], Place]:
    values: list[np.ndarray | Tensor] = []
    captions: list[str] = []
    skipped: list[str] = []
    for item in source.items(place):
        place = item.after
        if item.value is None:
            skipped.append(item.name)
            continue
        values.append(item.value)
        captions.append(item.caption)
        if len(values) == num:
            break
    return source.latents(teacher, values), captions, skipped, place


def _encode_latents(
    folder: Path,
    key: str,
    source: Callable[[], Source],
    teacher: Teacher,
    num: int,
    on_progress: Callable[[int], None] | None,
    a_shard: int,
) -> list[Path]:
    paths: list[Path] = []
    place, opened = Place(), None
    for first in range(0, num, a_shard):
        path = folder / f"latents-{first // a_shard:05d}.safetensors"
        count = min(a_shard, num - first)
        header = _header_or_none(path)
        mark = json.dumps([key, first, count, list(place)])
        if header is None or header.get("key") != mark:
            opened = source() if opened is None else opened
            latents, captions, skipped, after = _take(opened, place, teacher, count)
            header = {
                "key": mark,
                "captions": json.dumps(captions),
                "skipped": json.dumps(skipped),
                "place": json.dumps(list(after)),
            }
            stream_tensors(path, {"latents": latents}, header)
        place = Place(*json.loads(header["place"]))
        paths.append(path)
        if on_progress is not None:
            on_progress(first + count)
    return paths


def _encode_prompts(folder: Path, key: str, teacher: Teacher, prompts: list[str]) -> list[Path]:
    paths = []
    for first in range(0, len(prompts), PROMPTS_A_SHARD):
        path = folder / f"prompts-{first // PROMPTS_A_SHARD:05d}.safetensors"
        header = _header_or_none(path)
        if header is None or header.get("key") != f"{key} {first}":
            rows = teacher.encode_prompts(prompts[first : first + PROMPTS_A_SHARD]).float()
            stream_tensors(path, {"prompts": rows}, {"key": f"{key} {first}"})
        paths.append(path)
    return paths


def _index(folder: Path, key: str) -> dict[str, Any] | None:
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        whole = all(_header_or_none(folder / name) is not None for name in [*index["latents"], *index["prompts"]])
        return dict(index) if index["key"] == key and whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _raw_header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header and where its data begins.

    Raises:
        ValueError: damaged or cut short.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is no safetensors file")
        header = dict(json.loads(file.read(length)))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if path.stat().st_size != 8 + length + max(ends):
        raise ValueError(f"{path} is cut short")
    return header, 8 + length


def _header(path: Path) -> dict[str, str]:
    return dict(_raw_header(path)[0]["__metadata__"])


def _header_or_none(path: Path) -> dict[str, str] | None:
    """Metadata of a whole file; None where there is none, or a damaged one, which is then written again."""
    try:
        return _header(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(path: Path, name: str) -> np.ndarray:
    header, begin = _raw_header(path)
    entry = header[name]
    assert entry["dtype"] == "F32"
    return np.memmap(path, np.float32, "r", begin + entry["data_offsets"][0], tuple(entry["shape"]))
