"""Shared by all tests: one thread a process, the bundled teacher, and a tiny U-Net with SD 1.5's topology."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Before torch is imported: more threads than cores make the small models of the tests several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import pytest
from hypothesis import HealthCheck, settings

# No deadlines, because machines are shared; the same examples each time in CI, so that a failure there can be repeated.
settings.register_profile(
    "project", deadline=None, derandomize="CI" in os.environ, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from nas.run.context import RunContext
    from nas.teacher import Teacher


@pytest.fixture(scope="session")
def toy_teacher() -> Teacher:
    """The bundled teacher, loaded once; frozen, so that tests can share it."""
    import torch

    from nas.teacher import load_teacher

    torch.set_num_threads(1)
    return load_teacher("toy")


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """A run of eight candidates with trained blocks, six of them "evaluated" with made-up errors."""
    from tests.trained_run import make_run

    return make_run(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def tiny_unet() -> UNet2DConditionModel:
    """A U-Net of random weights with SD 1.5's blocks: latents (batch, 4, 8, 8), contexts (batch, tokens, 32)."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32, 64, 64),
            norm_num_groups=8,
            cross_attention_dim=32,
            attention_head_dim=4,
        )
    return unet.eval().requires_grad_(False)
