"""A small VAE with random weights and images for it, shared by the tests of its distillation and of the alignment."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL

from nas.data.image_data import ImageData, to_images

ENCODER, DECODER = ("VE", "4x1.6x1"), ("VD", "4x1.6x1")
BLOCKS = [ENCODER, DECODER]


class TeacherWithVae:
    """The suite's small teacher with a VAE: images of 16 pixels, latents of 8."""

    image_size = 16

    def __init__(self, base: Any, vae: Any) -> None:
        self._base, self.vae = base, vae

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


def make_teacher(teacher: Any) -> Any:
    torch.manual_seed(1)
    vae = AutoencoderKL(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        sample_size=16,
    )
    return TeacherWithVae(teacher, vae.eval().requires_grad_(False))


def make_images(teacher: Any, num: int = 12, num_held_out: int = 4) -> ImageData:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(256, (num, 4, 4, 3), generator=generator, dtype=torch.uint8)
    pixels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
    with torch.no_grad():
        posterior = teacher.vae.encode(to_images(pixels)).latent_dist
    return ImageData(pixels, posterior.mean, posterior.std, [f"photo {i % 3}" for i in range(num)], num_held_out)
