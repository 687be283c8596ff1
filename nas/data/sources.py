"""What a source of training data gives, one item after the other, from any place on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from nas.teacher import Teacher

#: Images of 64x64 pixels that are encoded in one call; latents come out the same whatever is encoded when.
ENCODE_AT_ONCE = 64


class Place(NamedTuple):
    """Where a source is: how often it began anew, and how many entries of this turn are behind it."""

    turn: int = 0
    number: int = 0


class Item(NamedTuple):
    """One entry: an array (H, W, 3) uint8 or latent (C, h, w), or None where it cannot be read.

    `after` is where to go on.
    """

    value: np.ndarray | Tensor | None
    caption: str
    name: str
    after: Place


class Source(Protocol):
    """A source of training data. The same place gives the same items."""

    def items(self, place: Place) -> Iterator[Item]:
        """Endless items from a place on; ends where a whole turn had none that can be read."""
        ...

    def latents(self, teacher: Teacher, values: list[np.ndarray | Tensor]) -> Tensor:
        """Scaled latents (N, C, h, w) of items' values."""
        ...


class Entry(NamedTuple):
    """An image that is not read yet."""

    name: str
    load: Callable[[], Image.Image]
    caption: str


@dataclass(frozen=True)
class ImageSource:
    """Square crops of images that `entries(skip)` lists in a fixed order, without the first `skip`.

    The first turn takes the centre squares, later ones random squares of 80-100 % of the short side.
    """

    entries: Callable[[int], Iterator[Entry]]
    size: int
    seed: int
    empty: str
    """What to say where none can be read."""

    def items(self, place: Place) -> Iterator[Item]:
        from PIL.Image import DecompressionBombError

        turn, number = place
        readable = number > 0  # what is behind a place within a turn has been looked at before
        while True:
            for entry in self.entries(number):
                rng = None if turn == 0 else np.random.default_rng([self.seed, turn, number])
                number += 1
                value: np.ndarray | None
                try:
                    value = square(entry.load(), self.size, rng)
                    readable = True
                # What Pillow raises for damaged files of any format, and for images too large to be meant.
                except (OSError, ValueError, SyntaxError, DecompressionBombError):
                    value = None
                yield Item(value, entry.caption, entry.name, Place(turn, number))
            if not readable:
                raise UserError(self.empty)
            turn, number, readable = turn + 1, 0, False

    def latents(self, teacher: Teacher, values: list[np.ndarray | Tensor]) -> Tensor:
        return encode(teacher, np.stack(values))


def encode(teacher: Teacher, images: np.ndarray) -> Tensor:
    """Latents of uint8 (N, H, W, 3) images, a slice at a time to bound memory."""
    parts = []
    for start in range(0, len(images), ENCODE_AT_ONCE):
        x = torch.from_numpy(images[start : start + ENCODE_AT_ONCE]).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append(teacher.encode_images(x))
    return torch.cat(parts).float().contiguous()


def square(image: Image.Image, size: int, rng: np.random.Generator | None) -> np.ndarray:
    """A square of an image (H, W, 3) uint8: the centre, or anywhere and a little smaller with `rng`."""
    from PIL import Image

    image = image.convert("RGB")
    width, height = image.size
    share, x, y = (1.0, 0.5, 0.5) if rng is None else (rng.uniform(0.8, 1.0), rng.random(), rng.random())
    side = share * min(width, height)
    left, top = x * (width - side), y * (height - side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)))
