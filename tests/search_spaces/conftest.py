"""U-Nets to cut: Stable Diffusion 1.5 without weights, and a small one with random weights."""

import pytest
import torch
from diffusers import UNet2DConditionModel


@pytest.fixture(scope="session")
def sd15_meta() -> UNet2DConditionModel:
    """SD 1.5's U-Net on the meta device (configuration as published by its authors)."""
    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8).eval()


@pytest.fixture(scope="session")
def small_unet() -> UNet2DConditionModel:
    """SD 1.5's topology at small width, random weights."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32, 64, 64),
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=4,
    ).eval()
