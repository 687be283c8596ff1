"""Training data of the search: latents with captions, and deterministic batches addressed by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nas.photos import photo_crops
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from nas.teacher import Teacher

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NULL_SHARE = 0.1  # share of empty prompts, as SD was trained for classifier-free guidance


class Batch(NamedTuple):
    """One training step's input: latents and noise (B, C, h, w), timesteps (B,), context (B, tokens, dim)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    context: Tensor


@dataclass(frozen=True)
class LatentDataset:
    """Scaled latents (N, C, h, w) float32 with one caption each.

    skipped: files of a folder that could not be read, in order.
    """

    latents: Tensor
    captions: list[str]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.latents.ndim == 4 and len(self.latents) == len(self.captions) > 0
        assert self.latents.dtype == torch.float32

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def key(self) -> str:
        """16 hex digits of a SHA-256 over latents and captions: names the data in caches."""
        digest = hashlib.sha256(repr(tuple(self.latents.shape)).encode())
        digest.update(self.latents.contiguous().numpy().tobytes())
        digest.update(json.dumps(self.captions).encode())
        return digest.hexdigest()[:16]


def photo_latents(teacher: Teacher, num: int, seed: int) -> LatentDataset:
    """Latents of `num` deterministic captioned crops of the photographs in the wheels."""
    images, captions = photo_crops(num, seed, teacher.image_size)
    return LatentDataset(_encode(teacher, images), captions)


def folder_latents(teacher: Teacher, folder: str | Path, num: int, seed: int) -> LatentDataset:
    """Latents of `num` square crops of a folder's images.

    Captions come from `metadata.jsonl` (`file_name`, and `text` or `caption`) or from a `.txt` file beside
    the image; an image without either has the empty caption. The first pass over the images takes the
    centre square, later passes random squares of 80-100 % of the short side. An image that cannot be
    read is skipped and listed in `.skipped`.

    Raises:
        UserError: no such folder, no readable image in it, or malformed metadata.
    """
    from PIL.Image import DecompressionBombError

    folder = Path(folder)
    if num < 1:
        raise UserError(f"number of images {num} is too small: at least 1 is needed")
    if not folder.is_dir():
        raise UserError(f"image folder {str(folder)!r} does not exist; give a folder with images and captions")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(f"image folder {str(folder)!r} holds no images; legal are {', '.join(IMAGE_SUFFIXES)}")
    captions = _captions(folder, paths)
    rng = np.random.default_rng(seed)
    order = [paths[i] for i in rng.permutation(len(paths))]
    size = teacher.image_size
    chosen: list[np.ndarray] = []
    words: list[str] = []
    skipped: list[str] = []
    turn = 0
    while order and len(chosen) < num:
        for path in list(order):
            if len(chosen) == num:
                break
            try:
                chosen.append(_square(path, size, None if turn == 0 else rng))
            # What Pillow raises for damaged files of any format, and for images too large to be meant.
            except (OSError, ValueError, SyntaxError, DecompressionBombError):
                skipped.append(str(path.relative_to(folder)))
                order.remove(path)
                continue
            words.append(captions[path])
        turn += 1
    if not chosen:
        raise UserError(f"image folder {str(folder)!r}: none of its {len(paths)} images can be read; replace them")
    return LatentDataset(_encode(teacher, np.stack(chosen)), words, tuple(skipped))


def batches(
    dataset: LatentDataset, teacher: Teacher, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[Batch]:
    """Endless batches; the n-th depends only on (dataset, seed, n), so a resumed run sees what it would have seen.

    Timesteps are uniform over the schedule; 10 % of the prompts are empty.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is too small: at least 1 is needed")
    # The empty prompt is row 0; every caption is encoded once, however often it occurs.
    unique = ["", *sorted(set(dataset.captions) - {""})]
    table = teacher.encode_prompts(unique)
    position = {caption: i for i, caption in enumerate(unique)}
    rows = torch.tensor([position[caption] for caption in dataset.captions])
    num_timesteps = int(teacher.scheduler.config.num_train_timesteps)
    return _batches(dataset.latents, table, rows, num_timesteps, batch_size, seed, start_step)


def _batches(
    latents: Tensor, table: Tensor, rows: Tensor, num_timesteps: int, batch_size: int, seed: int, step: int
) -> Iterator[Batch]:
    while True:
        generator = step_generator(seed, step)
        index = torch.randint(len(latents), (batch_size,), generator=generator)
        timesteps = torch.randint(num_timesteps, (batch_size,), generator=generator)
        keep = torch.rand(batch_size, generator=generator) >= NULL_SHARE
        noise = torch.randn((batch_size, *latents.shape[1:]), generator=generator)
        yield Batch(latents[index], noise, timesteps, table[rows[index] * keep])
        step += 1


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator for one step of one seed, independent of all others."""
    state = np.random.SeedSequence([seed, step]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def _encode(teacher: Teacher, images: np.ndarray) -> Tensor:
    """Latents of uint8 (N, H, W, 3) images, a slice at a time to bound memory."""
    parts = []
    for start in range(0, len(images), 64):
        x = torch.from_numpy(images[start : start + 64]).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts.append(teacher.encode_images(x))
    return torch.cat(parts).float().contiguous()


def _square(path: Path, size: int, rng: np.random.Generator | None) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as opened:
        image: Image.Image = opened.convert("RGB")
    width, height = image.size
    share, x, y = (1.0, 0.5, 0.5) if rng is None else (rng.uniform(0.8, 1.0), rng.random(), rng.random())
    side = share * min(width, height)
    left, top = x * (width - side), y * (height - side)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side)))


def _captions(folder: Path, paths: list[Path]) -> dict[Path, str]:
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
    for path in paths:
        beside = path.with_suffix(".txt")
        if path not in table:
            text = beside.read_text(encoding="utf-8", errors="replace") if beside.is_file() else ""
            table[path] = " ".join(text.split())
    return table
