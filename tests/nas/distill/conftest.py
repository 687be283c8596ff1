"""A U-Net of SD 1.5's topology at toy width with random weights, and batches addressed by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from nas.data import Batch, LatentDataset
from nas.data import batches as batches_of
from nas.distill.trainer import HELD_OUT_STEP
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class SmallTeacher:
    """The part of a teacher that trainings and measures use."""

    unet: UNet2DConditionModel
    scheduler: DDIMScheduler
    key: str = "0123456789abcdef"
    latent_size: int = 8
    latent_channels: int = 4

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Four tokens a prompt, a fixed function of its text."""
        rows = [torch.Generator().manual_seed(sum(map(ord, p))) for p in prompts]
        return torch.stack([torch.randn(4, 32, generator=g) for g in rows])


class CountingBatches:
    """The project's own batches, with a list of the training steps that were drawn."""

    def __init__(self, teacher: SmallTeacher, data: LatentDataset) -> None:
        self.teacher, self.data = teacher, data
        self.steps: list[int] = []

    def __call__(self, start_step: int) -> Iterator[Batch]:
        source = batches_of(self.data, self.teacher, 4, 0, start_step)
        for step, batch in enumerate(source, start_step):
            if step < HELD_OUT_STEP:
                self.steps.append(step)
            yield batch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def teacher() -> SmallTeacher:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 64, 64),
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
    )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    return SmallTeacher(unet.eval().requires_grad_(False), scheduler)


@pytest.fixture(scope="session")
def data() -> LatentDataset:
    latents = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    return LatentDataset(latents, [f"photo {i % 3}" for i in range(8)])


@pytest.fixture
def batches(teacher: SmallTeacher, data: LatentDataset) -> CountingBatches:
    return CountingBatches(teacher, data)


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    """Six surrogates: one per kind of stage, and D3's teacher word because `deep` is dropped."""
    options: dict[str, Any] = {
        "E1": ["RARA", "R"],
        "E2": ["RARA"],
        "E3": ["RARA", "RA"],
        "deep": ["none"],
        "D3": ["RARARA", "R"],
        "D2": ["RARARA", "RR"],
        "D1": ["RARARA", "R@3"],
    }
    return SearchSpace(name="small", options=options)
