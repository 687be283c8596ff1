"""Teachers with random weights in true shapes: for hardware work and for tests, made without any download."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from nas.photos import vocabulary
from nas.whole_word_tokenizer import write_tokenizer
from search_spaces.errors import UserError

_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3

SD15_UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": _DOWN,
    "up_block_types": _UP,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "norm_num_groups": 32,
}
SD15_VAE: dict[str, Any] = {
    "sample_size": 512,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "scaling_factor": 0.18215,
}
# CLIP ViT-L/14's text tower, as SD 1.x uses it.
SD15_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}
TOY_UNET: dict[str, Any] = {
    **SD15_UNET,
    "sample_size": 8,
    "block_out_channels": [16, 32, 64, 64],
    "attention_head_dim": 4,
    "cross_attention_dim": 64,
    "norm_num_groups": 8,
}
TOY_VAE: dict[str, Any] = {
    **SD15_VAE,
    "sample_size": 64,
    "block_out_channels": [16, 32, 64, 96],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
TOY_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
    "projection_dim": 64,
}
# SD 1.5's own noise schedule, sampled with DDIM.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
_SHAPES = {
    "sd15": (SD15_UNET, SD15_VAE, SD15_TEXT),
    "toy": (TOY_UNET, TOY_VAE, TOY_TEXT),
}


def write_random_teacher(like: Literal["sd15", "toy"], folder: str | Path, seed: int = 0) -> Path:
    """Write a Stable-Diffusion-format folder with random float16 weights in the true shapes.

    Tensors are drawn and written one at a time, so SD 1.5 (1.07 G parameters, 2.1 GB) needs no more memory
    than its largest tensor. The tokenizer is the toy teacher's (SD 1.5's vocabulary cannot be made
    offline), padded to the true prompt length.

    Raises:
        UserError: an unknown `like`, or a folder that exists and is not empty.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    if like not in _SHAPES:
        raise UserError(f"unknown shape {like!r} for a random teacher; legal are {', '.join(_SHAPES)}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"folder {str(folder)!r} exists and is not empty; give a new one")
    folder.mkdir(parents=True, exist_ok=True)
    unet_config, vae_config, text_config = _SHAPES[like]
    length = int(text_config["max_position_embeddings"])
    vocab_size = write_tokenizer(folder / "tokenizer", vocabulary(), length)
    with torch.device("meta"):
        unet = UNet2DConditionModel(**unet_config)
        vae = AutoencoderKL(**vae_config)
        # Keys as ids of the tokenizer, not CLIP's: the pooled output looks for the end token by id.
        text = CLIPTextModel(
            CLIPTextConfig(**{"vocab_size": vocab_size, **text_config}, bos_token_id=0, eos_token_id=1, pad_token_id=1)
        )
    generator = torch.Generator().manual_seed(seed)
    for name, module, file in (
        ("unet", unet, "diffusion_pytorch_model.safetensors"),
        ("vae", vae, "diffusion_pytorch_model.safetensors"),
        ("text_encoder", text, "model.safetensors"),
    ):
        (folder / name).mkdir(exist_ok=True)
        if name == "text_encoder":
            text.config.architectures = ["CLIPTextModel"]
            # transformers loads in the stored precision unless the config says otherwise; half would not run here.
            text.config.dtype = torch.float32
            text.config.save_pretrained(folder / name)
        else:
            module.save_config(folder / name)
        write_streamed(folder / name / file, _random_tensors(module, generator))
    DDIMScheduler(**SCHEDULER).save_config(folder / "scheduler")
    (folder / "README.md").write_text(_card(like, seed))
    write_model_index(folder, "DDIMScheduler")
    return folder


def write_model_index(folder: Path, scheduler_class: str) -> None:
    """Write model_index.json of a pipeline without safety checker; last, as it makes the folder valid."""
    import diffusers

    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def _random_tensors(module: torch.nn.Module, generator: torch.Generator) -> Iterator[tuple[str, torch.Size, Any]]:
    """(name, shape, maker) of each weight; norms are one, biases zero, the rest uniform with variance 1/(3 fan_in)."""
    norms = {
        f"{name}.weight"
        for name, child in module.named_modules()
        if isinstance(child, (torch.nn.GroupNorm, torch.nn.LayerNorm))
    }
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue  # position indices, which the model makes itself

        def make(name: str = name, shape: torch.Size = tensor.shape) -> torch.Tensor:
            if name in norms:
                return torch.ones(shape)
            if len(shape) == 1:
                return torch.zeros(shape)
            fan_in = shape[1] if "embedding" in name and "time" not in name else math.prod(shape[1:])
            return torch.empty(shape).uniform_(-1, 1, generator=generator).mul_(1 / math.sqrt(fan_in))

        yield name, tensor.shape, make


def write_streamed(path: Path, tensors: Iterator[tuple[str, torch.Size, Any]]) -> None:
    """Write float16 safetensors one tensor at a time: 8 bytes length, JSON header, then the data in order.

    Format: https://github.com/huggingface/safetensors (the library itself wants all tensors in memory).
    """
    todo = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape, _ in todo:
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, make in todo:
            file.write(make().to(torch.float16).contiguous().numpy().tobytes())
    part.rename(path)


def _card(like: str, seed: int) -> str:
    return f"""# Random teacher, shapes of {like}

Random weights (seed {seed}, float16) in true shapes, for measuring and for tests: it makes noise, not
pictures. The tokenizer is not the original: it is a small one made offline (photograph words, letters),
padded to the true prompt length, so prompts have the right shape and no meaning.
"""
