"""A random teacher with SD 1.5's topology at a tiny width, as real diffusers and transformers objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nas.teacher import Teacher


def make_unet(seed: int = 0) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return (
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 24, 24),
            norm_num_groups=4,
            cross_attention_dim=16,
            attention_head_dim=2,
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture(scope="session")
def teacher() -> Teacher:
    return make_teacher()


def make_teacher() -> Teacher:
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    torch.set_num_threads(1)
    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=16)
    torch.manual_seed(1)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=len(words) - 2,
            eos_token_id=len(words) - 1,
        )
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        sample_size=64,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    for model in (text_encoder, vae):
        model.eval().requires_grad_(False)
    return Teacher(
        make_unet(), vae, text_encoder, tokenizer, scheduler, folder=Path(), spec="random", key="0123456789abcdef"
    )
