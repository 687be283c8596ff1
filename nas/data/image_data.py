"""Images to distil a VAE on, with the teacher's moments of each: made once, addressed by step, some held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nas.atomic import read_tensors, stream_tensors
from nas.data.dataset import step_generator
from nas.data.sources import ENCODE_AT_ONCE, Item, Place, Source
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher

FORMAT_VERSION = 1
MAX_HELD_OUT = 64


class ImageBatch(NamedTuple):
    """One step's input: images (B, 3, H, W) in [-1, 1], the teacher's moments of them (B, C, h, w), noise like these.

    `rows` (B,) are the images' numbers. Moments are not scaled.
    """

    images: Tensor
    mean: Tensor
    std: Tensor
    noise: Tensor
    rows: Tensor


@dataclass(frozen=True)
class ImageData:
    """Images (N, H, W, 3) uint8 with captions, and mean and standard deviation (N, C, h, w) of the teacher's encoder.

    The first `num_held_out` are for measuring; no training draws them, nor another crop of the same image.
    """

    pixels: Tensor
    mean: Tensor
    std: Tensor
    captions: list[str]
    num_held_out: int

    def __post_init__(self) -> None:
        assert 0 < self.num_held_out < len(self.captions) == len(self.pixels) == len(self.mean) == len(self.std)

    @property
    def num_training(self) -> int:
        """Images that are trained on."""
        return len(self.captions) - self.num_held_out

    @cached_property
    def key(self) -> str:
        """16 hex digits of a SHA-256 over images, captions and what is held out."""
        digest = hashlib.sha256(json.dumps([tuple(self.pixels.shape), self.num_held_out, self.captions]).encode())
        for part in self.pixels.split(256):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def held_out(self) -> ImageBatch:
        """The images held out, without noise."""
        rows = torch.arange(self.num_held_out)
        return self._batch(rows, torch.zeros(1).expand(self.num_held_out, *self.mean.shape[1:]))

    def batches(self, batch_size: int, seed: int, start_step: int = 0) -> Iterator[ImageBatch]:
        """Endless batches of what is trained on; the n-th depends only on (data, seed, n)."""
        step = start_step
        while True:
            generator = step_generator(seed, step)
            rows = self.num_held_out + torch.randint(self.num_training, (batch_size,), generator=generator)
            noise = torch.randn((batch_size, *self.mean.shape[1:]), generator=generator)
            yield self._batch(rows, noise)
            step += 1

    def _batch(self, rows: Tensor, noise: Tensor) -> ImageBatch:
        return ImageBatch(to_images(self.pixels[rows]), self.mean[rows], self.std[rows], noise, rows)


def to_images(pixels: Tensor) -> Tensor:
    """Images (N, 3, H, W) float32 in [-1, 1] of pixels (N, H, W, 3) uint8."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def cached_images(
    path: Path,
    key: str,
    source: Callable[[], Source],
    teacher: Teacher,
    num: int,
    on_progress: Callable[[int], None] | None = None,
) -> ImageData:
    """`num` items of a source as images with the teacher's moments, from `path` where they were made before.

    Args:
        path: one safetensors file; of another key it is written over.
        key: names everything that decides the images.
        on_progress: called with the number of images whose moments are known.

    Raises:
        UserError: fewer than two different images, or the file cannot be written.
    """
    key = f"{FORMAT_VERSION} {key} {num}"
    found = read_tensors(path, key)
    if found is None:
        pixels, captions, num_held_out = _take(source(), teacher, num)
        mean, std = _moments(teacher.vae, pixels, teacher.image_size, on_progress)
        header = {"key": key, "captions": json.dumps(captions), "num_held_out": str(num_held_out)}
        tensors = {"pixels": pixels, "mean": mean, "std": std}
        stream_tensors(path, tensors, header)
        return ImageData(pixels, mean, std, captions, num_held_out)
    header, tensors = found
    if on_progress is not None:
        on_progress(len(tensors["pixels"]))
    return ImageData(
        tensors["pixels"], tensors["mean"], tensors["std"], json.loads(header["captions"]), int(header["num_held_out"])
    )


def _take(source: Source, teacher: Teacher, num: int) -> tuple[Tensor, list[str], int]:
    """Pixels, captions, and how many of the first are held out."""
    items: list[Item] = []
    for item in source.items(Place()):
        if item.value is not None:
            items.append(item._replace(value=_pixels(item.value, teacher)))
        if len(items) == num:
            break
    first = list({item.name: i for i, item in reversed(list(enumerate(items)))}.values())
    # A fourth of the different images where there are few; later crops of those held out are left out.
    held = sorted(first)[: min(MAX_HELD_OUT, max(1, len(first) // 4))]
    names = {items[i].name for i in held}
    chosen = [items[i] for i in held] + [item for item in items if item.name not in names]
    if len(chosen) == len(held):
        raise UserError(
            f"a VAE is distilled on some images and measured on others, but there is {len(first)} different image in "
            "the recipe's data; give two or more"
        )
    return torch.from_numpy(np.stack([np.asarray(i.value) for i in chosen])), [i.caption for i in chosen], len(held)


def _pixels(value: Any, teacher: Teacher) -> np.ndarray:
    if isinstance(value, Tensor):  # a latent that the teacher sampled: its image is what the teacher decodes
        image = teacher.decode_latents(value[None].float())[0]
        return np.asarray((image * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    return np.asarray(value)


def _moments(vae: Any, pixels: Tensor, size: int, on_progress: Callable[[int], None] | None) -> tuple[Tensor, Tensor]:
    means, stds, done = [], [], 0
    with torch.no_grad():
        for part in pixels.split(max(1, ENCODE_AT_ONCE * 64**2 // size**2)):
            posterior = vae.encode(to_images(part)).latent_dist
            means.append(posterior.mean.float())
            stds.append(posterior.std.float())
            done += len(part)
            if on_progress is not None:
                on_progress(done)
    # Laid out as they are read back: a network's kernels, and so the last bits, go by its input's layout.
    return torch.cat(means).contiguous(), torch.cat(stds).contiguous()
