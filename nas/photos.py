"""The real photographs that travel inside the scikit-image and scikit-learn wheels.

Nothing is downloaded: each file is part of the installed wheel. A crop is described by where it was
cut, so its caption is true by construction: "coffee left top near" is a small crop from the leftmost
and topmost quarter of the possible places in the photograph of a coffee cup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Photo:
    """One photograph: the caption's first word, where it lies in which wheel, its licence."""

    word: str
    package: str
    path: str
    licence: str


PHOTOS = (
    Photo("astronaut", "skimage", "data/astronaut.png", "public domain (NASA)"),
    Photo("photographer", "skimage", "data/camera.png", "CC0 (Lav Varshney)"),
    Photo("cat", "skimage", "data/chelsea.png", "CC0 (Stefan van der Walt)"),
    Photo("clock", "skimage", "data/clock_motion.png", "public domain (Stefan van der Walt)"),
    Photo("coffee", "skimage", "data/coffee.png", "CC0 (Rachel Michetti)"),
    Photo("coins", "skimage", "data/coins.png", "no known copyright restrictions (Brooklyn Museum)"),
    Photo("galaxies", "skimage", "data/hubble_deep_field.jpg", "public domain (NASA)"),
    Photo("tissue", "skimage", "data/ihc.png", "no known copyright restrictions (CMMI)"),
    Photo("retina", "skimage", "data/retina.jpg", "CC0 (Mikael Haggstrom)"),
    Photo("rocket", "skimage", "data/rocket.jpg", "public domain (SpaceX)"),
    Photo("temple", "sklearn", "datasets/images/china.jpg", "CC BY 2.0 (danielbuechele)"),
    Photo("flower", "sklearn", "datasets/images/flower.jpg", "CC BY 2.0 (vultilion)"),
)
COLUMNS = ("left", "leftish", "rightish", "right")
ROWS = ("top", "upper", "lower", "bottom")
# Zoom and mirroring share one word, so that every caption has exactly four content tokens.
ZOOMS = ("near", "far", "nearmirrored", "farmirrored")
_SIDE = {"near": 0.45, "far": 0.75}  # crop side as a fraction of the photograph's short side


def vocabulary() -> tuple[str, ...]:
    """Every word that a photograph's caption can hold, in a fixed order."""
    return (*(p.word for p in PHOTOS), *COLUMNS, *ROWS, *ZOOMS)


def photo_path(photo: Photo) -> Path:
    """The photograph's file in the installed wheel; UserError when the package is not there."""
    spec = find_spec(photo.package)
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    path = folder / photo.path if folder else None
    if path is None or not path.is_file():
        wheel = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[photo.package]
        raise UserError(
            f"photograph {photo.word!r} not found: {photo.path} is part of the {wheel} wheel; "
            f"install {wheel} (pip install {wheel})"
        )
    return path


@lru_cache(maxsize=len(PHOTOS))
def _load(photo: Photo) -> Image:
    from PIL import Image

    with Image.open(photo_path(photo)) as image:
        return image.convert("RGB")


def crop(photo: Photo, x: float, y: float, zoom: str, size: int) -> np.ndarray:
    """Cut one square crop.

    x, y in [0, 1] place the crop between the two edges; zoom is a word of ZOOMS.
    Returns uint8 (size, size, 3).
    """
    from PIL import Image

    image = _load(photo)
    width, height = image.size
    side = _SIDE[zoom.removesuffix("mirrored")] * min(width, height)
    left, top = x * (width - side), y * (height - side)
    # reducing_gap stays off: the box filter it would add depends on the crop's alignment.
    cut = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    pixels = np.asarray(cut)
    return np.ascontiguousarray(pixels[:, ::-1]) if zoom.endswith("mirrored") else pixels


def photo_crops(num: int, seed: int, size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Deterministic crops with captions, the photographs in turn.

    Returns uint8 (num, size, size, 3) and num captions of four words: photograph, column, row, zoom.
    """
    if num < 1:
        raise UserError(f"number of images {num} is too small: at least 1 is needed")
    images = np.empty((num, size, size, 3), np.uint8)
    captions = []
    for i, (image, caption) in zip(range(num), iter_crops(seed, size), strict=False):
        images[i] = image
        captions.append(caption)
    return images, captions


def iter_crops(seed: int, size: int = 64, start: int = 0) -> Iterator[tuple[np.ndarray, str]]:
    """The crops of :func:`photo_crops` without end, from the `start`-th on."""
    rng = np.random.default_rng(seed)
    for i in count():
        photo = PHOTOS[i % len(PHOTOS)]
        x, y = rng.random(2)
        zoom = ZOOMS[int(rng.integers(len(ZOOMS)))]
        if i >= start:
            image = crop(photo, x, y, zoom, size)
            yield image, f"{photo.word} {COLUMNS[int(x * 4)]} {ROWS[int(y * 4)]} {zoom}"
