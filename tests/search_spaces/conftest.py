"""U-Nets to cut: published ones without weights, and small ones of the same topology with random weights."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

SMALL: dict[str, Any] = {"sample_size": 8, "norm_num_groups": 8, "cross_attention_dim": 32}
FOUR_LEVELS = (16, 32, 64, 64)
# Configurations as published with the weights of SD 2.1-base and SDXL base 1.0.
SD21 = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
}


def _on_meta(**config: Any) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**config).eval()


def _random(**config: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**config).eval()


@pytest.fixture(scope="session")
def sd15_meta() -> UNet2DConditionModel:
    """SD 1.5's U-Net on the meta device (configuration as published by its authors)."""
    return _on_meta(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


@pytest.fixture(scope="session")
def sd15_vae_meta() -> AutoencoderKL:
    """SD 1.5's VAE on the meta device (configuration as published by its authors)."""
    with torch.device("meta"):
        return AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            sample_size=512,
        ).eval()


@pytest.fixture(scope="session")
def sd21_meta() -> UNet2DConditionModel:
    """SD 2.1-base's U-Net on the meta device."""
    return _on_meta(sample_size=64, cross_attention_dim=1024, **SD21)


@pytest.fixture(scope="session")
def sdxl_meta() -> UNet2DConditionModel:
    """SDXL's U-Net on the meta device."""
    return _on_meta(
        sample_size=128, block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
        transformer_layers_per_block=(1, 2, 10), addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816, **SDXL,
    )  # fmt: skip


@pytest.fixture(scope="session")
def small_unet() -> UNet2DConditionModel:
    """SD 1.5's topology at small width, random weights."""
    return _random(block_out_channels=FOUR_LEVELS, attention_head_dim=4, **SMALL)


@pytest.fixture(scope="session")
def small_sd21() -> UNet2DConditionModel:
    """SD 2.1's topology at small width, random weights."""
    return _random(block_out_channels=FOUR_LEVELS, **{**SD21, "attention_head_dim": (1, 2, 4, 4)}, **SMALL)


@pytest.fixture(scope="session")
def small_sdxl() -> UNet2DConditionModel:
    """SDXL's topology at small width, random weights."""
    return _random(
        block_out_channels=(16, 32, 64), attention_head_dim=(1, 2, 4), transformer_layers_per_block=(1, 2, 3),
        addition_time_embed_dim=4, projection_class_embeddings_input_dim=32, **SDXL, **SMALL,
    )  # fmt: skip
