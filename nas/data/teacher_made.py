"""Training data without any images: latents that the teacher itself samples, from prompts or without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nas.data.dataset import step_generator
from nas.data.sources import Item, Place
from nas.sampling import ddim_sample
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher

SAMPLE_AT_ONCE = 16
# The noise of the samples must not be that of the training's steps under the same seed.
_STREAM = 2**30


@dataclass(frozen=True)
class TeacherSource:
    """Latents sampled with DDIM, the i-th from its own noise and from prompt i modulo their number.

    Without prompts they are samples of the empty one, without guidance.
    """

    teacher: Teacher
    prompts: tuple[str, ...]
    seed: int
    ddim_steps: int
    guidance: float

    def items(self, place: Place) -> Iterator[Item]:
        # Whole groups from a multiple of their size, so that a resumed source computes what it would have.
        first = place.number - place.number % SAMPLE_AT_ONCE
        while True:
            numbers = range(first, first + SAMPLE_AT_ONCE)
            captions = [self.prompts[i % len(self.prompts)] if self.prompts else "" for i in numbers]
            latents = self._sample(numbers, captions)
            for number, caption, latent in zip(numbers, captions, latents, strict=True):
                if number >= place.number:
                    yield Item(latent, caption, f"sample {number}", Place(0, number + 1))
            first += SAMPLE_AT_ONCE

    def _sample(self, numbers: range, captions: list[str]) -> Tensor:
        teacher = self.teacher
        shape = (teacher.latent_channels, teacher.latent_size, teacher.latent_size)
        noise = torch.stack([torch.randn(shape, generator=step_generator(self.seed, _STREAM + i)) for i in numbers])
        null = teacher.encode_prompts([""])
        guidance = self.guidance if self.prompts else 1.0
        context = teacher.encode_prompts(captions)
        return ddim_sample(
            teacher.unet, teacher.scheduler.config, noise, context, null, self.ddim_steps, guidance
        ).float()

    def latents(self, teacher: Teacher, values: list[np.ndarray | Tensor]) -> Tensor:
        return torch.stack([torch.as_tensor(value) for value in values]).contiguous()


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Prompts of a text file, one a line; blank lines are left out.

    Raises:
        UserError: no such file, or nothing in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.prompts: {path} cannot be read ({error}); give a text file, one prompt a line") from None
    prompts = tuple(" ".join(line.split()) for line in lines if line.strip())
    if not prompts:
        raise UserError(f"data.prompts: {path} holds no prompt; give a text file, one prompt a line")
    return prompts
