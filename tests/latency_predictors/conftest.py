from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from latency_predictors.calibration import CalibrationSettings
from search_spaces.space import SearchSpace


@pytest.fixture(scope="session")
def unet() -> UNet2DConditionModel:
    """SD 1.5's topology, four channels wide and 8x8 latents."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return tiny_unet()


def tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8, 8),
        norm_num_groups=2,
        attention_head_dim=2,
        cross_attention_dim=8,
    ).eval()


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(
        name="tiny",
        options={
            "E1": ("RARA", "R"),
            "E2": ("RARA", "R"),
            "E3": ("R",),
            "deep": ("RR.RAR.RRR", "none"),
            "D3": ("R",),
            "D2": ("R",),
            "D1": ("RARARA", "R@3"),
        },
    )


@pytest.fixture
def settings() -> CalibrationSettings:
    """Enough to see that it works, far too little to be accurate."""
    return CalibrationSettings(
        warm_up=1, min_repeats=4, rounds_per_pass=2, max_seconds=0.02, target_ci_pct=100, num_fit=3, num_check=2
    )
