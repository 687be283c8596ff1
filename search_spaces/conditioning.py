"""What lies outside of all stages of a U-Net, and the conditioning that SDXL adds to the time embedding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from search_spaces.errors import UserError, shown

TEXT_TIME = "text_time"
"""SDXL's ``addition_embed_type``: pooled text embedding and sizes are added to the time embedding."""

_HEAD = ("conv_in", "time_proj", "time_embedding", "conv_norm_out", "conv_act", "conv_out")
_ADDED_HEAD = ("add_time_proj", "add_embedding")
_NUM_TIME_IDS = 6  # original size, crop and target size, two numbers each (SDXL, arXiv 2307.01952)


def head_modules(unet: Any) -> tuple[str, ...]:
    """Names of the modules outside of all stages: input, time embedding, SDXL's added embedding, output."""
    return _HEAD + (_ADDED_HEAD if unet.config.addition_embed_type == TEXT_TIME else ())


def text_width(config: Any) -> int:
    """Width of the text embeddings (B, tokens, width) that a U-Net of this configuration reads.

    Raises:
        UserError: widths that differ by level.
    """
    widths = config["cross_attention_dim"]
    distinct = {widths} if isinstance(widths, int) else set(widths or ())
    if len(distinct) != 1:
        raise UserError(
            f"unsupported teacher: cross_attention_dim is {shown(widths)}; legal is one number for all levels"
        )
    return int(distinct.pop())


def example_conditioning(unet: Any, batch: int, device: torch.device | str) -> dict[str, Tensor] | None:
    """Zeros in the shapes of ``added_cond_kwargs``: text_embeds (B, D), time_ids (B, 6); ``None`` without any."""
    if unet.config.addition_embed_type != TEXT_TIME:
        return None
    width = unet.config.projection_class_embeddings_input_dim - _NUM_TIME_IDS * unet.config.addition_time_embed_dim
    return {
        "text_embeds": torch.zeros(batch, width, device=device),
        "time_ids": torch.zeros(batch, _NUM_TIME_IDS, device=device),
    }


def embed_added(unet: Any, added: dict[str, Tensor] | None, dtype: torch.dtype) -> Tensor | None:
    """What is added to the time embedding (B, D), ``None`` for a U-Net without; as diffusers computes it.

    Args:
        unet: its modules ``add_time_proj`` and ``add_embedding`` are called, if there are any.
        added: ``added_cond_kwargs``.
        dtype: of the time embedding.

    Raises:
        UserError: conditioning that this U-Net does not take, or lacks.
    """
    if not hasattr(unet, "add_embedding"):
        if added:
            raise UserError(
                f"added_cond_kwargs has {', '.join(added)}; this U-Net takes sample, timestep and text embeddings only"
            )
        return None
    if added is None or set(added) != {"text_embeds", "time_ids"}:
        raise UserError(
            f"added_cond_kwargs has {', '.join(added or ()) or 'nothing'}; this U-Net needs text_embeds and time_ids"
        )
    text = added["text_embeds"]
    times = unet.add_time_proj(added["time_ids"].flatten()).reshape(text.shape[0], -1)
    embedded: Tensor = unet.add_embedding(torch.concat([text, times], dim=-1).to(dtype))
    return embedded
