"""Images to train on: the photographs in the wheels, and folders with captions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from nas.data.dataset import LatentDataset
from nas.data.sources import Entry, ImageSource, Item, Place, encode
from nas.photos import iter_crops, photo_crops
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from nas.teacher import Teacher

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class PhotoSource:
    """Captioned crops of the photographs in the wheels; a place's number counts them."""

    seed: int
    size: int

    def items(self, place: Place) -> Iterator[Item]:
        for number, (image, caption) in enumerate(iter_crops(self.seed, self.size, place.number), place.number + 1):
            yield Item(image, caption, caption, Place(0, number))

    def latents(self, teacher: Teacher, values: list[np.ndarray | Tensor]) -> Tensor:
        return encode(teacher, np.stack(values))


def photo_latents(teacher: Teacher, num: int, seed: int) -> LatentDataset:
    """Latents of `num` deterministic captioned crops of the photographs in the wheels."""
    images, captions = photo_crops(num, seed, teacher.image_size)
    return LatentDataset(encode(teacher, images), captions)


def folder_latents(teacher: Teacher, folder: str | Path, num: int, seed: int) -> LatentDataset:
    """Latents of `num` square crops of a folder's images, in memory; see `folder_source`."""
    from nas.data.cache import in_memory

    return in_memory(folder_source(folder, teacher.image_size, seed), teacher, num)


def folder_source(folder: str | Path, size: int, seed: int) -> ImageSource:
    """Square crops of a folder's images, in an order of the seed.

    Captions come from `metadata.jsonl` (`file_name`, and `text` or `caption`) or from a `.txt` file beside
    the image; an image without either has the empty caption.

    Raises:
        UserError: no such folder, no image in it, or malformed metadata.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"image folder {str(folder)!r} does not exist; give a folder with images and captions")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"image folder {str(folder)!r} holds no images; legal are {', '.join(IMAGE_SUFFIXES)}")
    table = _metadata(folder)
    order = np.random.default_rng(seed).permutation(len(paths))

    def entries(skip: int) -> Iterator[Entry]:
        for index in order[skip:]:
            path = paths[index]
            caption = table[path] if path in table else _beside(path)
            yield Entry(str(path.relative_to(folder)), partial(_open, path), caption)

    empty = f"image folder {str(folder)!r}: none of its {len(paths)} images can be read; replace them"
    return ImageSource(entries, size, seed, empty)


def _open(path: Path) -> Image.Image:
    from PIL import Image

    with Image.open(path) as opened:
        return opened.convert("RGB")


def _metadata(folder: Path) -> dict[Path, str]:
    table: dict[Path, str] = {}
    metadata = folder / "metadata.jsonl"
    if metadata.is_file():
        for number, line in enumerate(metadata.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                text = record["text"] if "text" in record else record["caption"]
                table[folder / record["file_name"]] = str(text)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{metadata} line {number} is not a caption record ({type(error).__name__}: {error}); "
                    'legal is {"file_name": "a.png", "text": "a caption"}'
                ) from error
    return table


def _beside(path: Path) -> str:
    beside = path.with_suffix(".txt")
    text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
    return " ".join(text.split())
