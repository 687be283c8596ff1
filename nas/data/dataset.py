"""Latents with captions, in memory or on disk, and deterministic batches of them addressed by step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher

NULL_SHARE = 0.1  # share of empty prompts, as SD was trained for classifier-free guidance


class Batch(NamedTuple):
    """One training step's input: latents and noise (B, C, h, w), timesteps (B,), context (B, tokens, dim)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    context: Tensor


class Rows(Protocol):
    """Rows (N, ...) that can be picked by index: a tensor, or files on disk."""

    @property
    def shape(self) -> Sequence[int]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class LatentDataset:
    """Scaled latents (N, C, h, w) float32 with one caption each.

    skipped: files that could not be read, in order.
    prompts: embeddings of `unique_captions`, where they were computed before.
    stored_key: `key`, where it was computed before.
    """

    latents: Rows
    captions: list[str]
    skipped: tuple[str, ...] = ()
    prompts: Rows | None = field(default=None, compare=False, repr=False)
    stored_key: str | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        assert len(self.latents.shape) == 4 and len(self.latents) == len(self.captions) > 0

    def __len__(self) -> int:
        return len(self.captions)

    @cached_property
    def key(self) -> str:
        """16 hex digits of a SHA-256 over latents and captions: names the data in caches."""
        if self.stored_key is not None:
            return self.stored_key
        parts = (self.latents[i] for i in torch.arange(len(self)).split(1024))
        return data_key(self.latents.shape, parts, self.captions)

    @cached_property
    def unique_captions(self) -> list[str]:
        """The empty prompt, then every other caption once, sorted."""
        return unique_captions(self.captions)

    @cached_property
    def caption_rows(self) -> Tensor:
        """Row (N,) of each latent's caption in `unique_captions`."""
        position = {caption: i for i, caption in enumerate(self.unique_captions)}
        return torch.tensor([position[caption] for caption in self.captions])


def data_key(shape: Sequence[int], parts: Iterable[Tensor], captions: list[str]) -> str:
    """Key of latents that come in parts, and their captions: the same however they are cut."""
    digest = hashlib.sha256(repr(tuple(shape)).encode())
    for part in parts:
        assert part.dtype == torch.float32
        digest.update(part.contiguous().numpy().tobytes())
    digest.update(json.dumps(captions).encode())
    return digest.hexdigest()[:16]


def unique_captions(captions: Iterable[str]) -> list[str]:
    """The empty prompt, then every other caption once, sorted."""
    return ["", *sorted(set(captions) - {""})]


def batches(
    dataset: LatentDataset, teacher: Teacher, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[Batch]:
    """Endless batches; the n-th depends only on (dataset, seed, n), so a resumed run sees what it would have seen.

    Timesteps are uniform over the schedule; 10 % of the prompts are empty.
    """
    if batch_size < 1:
        raise UserError(f"batch size {batch_size} is too small: at least 1 is needed")
    # Every caption is encoded once, however often it occurs.
    table = teacher.encode_prompts(dataset.unique_captions) if dataset.prompts is None else dataset.prompts
    num_timesteps = int(teacher.scheduler.config.num_train_timesteps)
    return _batches(dataset, table, num_timesteps, batch_size, seed, start_step)


def _batches(
    dataset: LatentDataset, table: Rows, num_timesteps: int, batch_size: int, seed: int, step: int
) -> Iterator[Batch]:
    latents, rows = dataset.latents, dataset.caption_rows
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
