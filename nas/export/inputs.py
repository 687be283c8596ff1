"""Fixed inputs on which an exported network is compared with its source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from search_spaces.unet import StagedUNet


def unet_inputs(
    staged: StagedUNet, num_tokens: int, timestep: int, *, batch_size: int = 1, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Standard normal latents (B, C, h, w), one timestep per sample (B,), text embeddings (B, tokens, D).

    The sizes are those the U-Net was trained on (`sample_size`).
    """
    import torch

    from search_spaces.conditioning import text_width

    config: Any = staged.config
    size = config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    context_dim = text_width(config.teacher_config)
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randn(batch_size, config.in_channels, height, width, generator=generator)
    context = torch.randn(batch_size, num_tokens, context_dim, generator=generator)
    return sample, torch.full((batch_size,), timestep, dtype=torch.int64), context
