"""What stands between images and latents: the teacher's own halves of the VAE, and tiny ResNets.

Every encoder maps images (B, C, H, W) in [-1, 1] to moments (B, 2 * latent channels, h, w), mean then
log-variance; every decoder maps latents (B, latent channels, h, w), not scaled, to images. Each level after the
first halves height and width, rounding down as the teacher does, so options can be exchanged at any image size.

The tiny ResNets are those of TAESD (diffusers' ``EncoderTiny`` and ``DecoderTiny``) with a width per level: with
one width throughout, the order of layers, the names of weights and the numbers are theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from diffusers.models.unets.unet_2d_blocks import AutoencoderTinyBlock
from torch import Tensor, nn

from search_spaces.layers import draw_weights
from search_spaces.vae_option import TinyLevel


class TeacherEncoder(nn.Module):
    """The teacher's encoder with the 1x1 convolution after it, if it has one."""

    def __init__(self, encoder: nn.Module, quant_conv: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.quant_conv = quant_conv

    def forward(self, x: Tensor) -> Tensor:
        moments: Tensor = self.encoder(x)
        return moments if self.quant_conv is None else self.quant_conv(moments)


class TeacherDecoder(nn.Module):
    """The teacher's decoder with the 1x1 convolution before it, if it has one."""

    def __init__(self, post_quant_conv: nn.Module | None, decoder: nn.Module) -> None:
        super().__init__()
        self.post_quant_conv = post_quant_conv
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return image


class HalvingConv(nn.Conv2d):
    """3x3 convolution of stride 2 that rounds odd sizes down, as ``AutoencoderKL`` does; even sizes as they are."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % 2 or width % 2:  # else no slice in exported graphs
            x = x[..., : height - height % 2, : width - width % 2]
        return super().forward(x)


class SizedConv(nn.Conv2d):
    """3x3 convolution that keeps height and width."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)


Make: TypeAlias = Callable[..., nn.Module]
"""Makes a layer of a class and its arguments."""


def made(kind: type[nn.Module], *args: Any) -> nn.Module:
    """The layer itself."""
    return kind(*args)


def _blocks(make: Make, level: TinyLevel) -> list[nn.Module]:
    return [make(AutoencoderTinyBlock, level.width, level.width, "relu") for _ in range(level.depth)]


class TinyEncoder(nn.Module):
    """Tiny ResNet from images to moments.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the moments.
        levels: width and depth of each level, full resolution first.
        make: makes the layers; costing puts others in their places.
    """

    def __init__(self, in_channels: int, out_channels: int, levels: Sequence[TinyLevel], make: Make = made) -> None:
        super().__init__()
        layers = [make(SizedConv, in_channels, levels[0].width), *_blocks(make, levels[0])]
        for upper, level in itertools.pairwise(levels):
            layers += [make(HalvingConv, upper.width, level.width), *_blocks(make, level)]
        self.layers = nn.Sequential(*layers, make(SizedConv, levels[-1].width, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        moments: Tensor = self.layers(x.add(1).div(2))  # TAESD's images are in [0, 1]
        return moments


class TinyDecoder(nn.Module):
    """Tiny ResNet from latents to images.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the image.
        levels: width and depth of each level, full resolution first, as for the encoder.
        scaling_factor: what brings the latents to unit variance; TAESD softly clamps at three deviations.
        make: as for the encoder.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        levels: Sequence[TinyLevel],
        scaling_factor: float,
        make: Make = made,
    ) -> None:
        super().__init__()
        upward = list(reversed(levels))
        layers = [make(SizedConv, in_channels, upward[0].width), nn.ReLU(), *_blocks(make, upward[0])]
        for lower, level in itertools.pairwise(upward):
            layers += [nn.Upsample(scale_factor=2), make(SizedConv, lower.width, level.width, False)]
            layers += _blocks(make, level)
        self.layers = nn.Sequential(*layers, make(SizedConv, upward[-1].width, out_channels))
        self.scaling_factor = scaling_factor

    def forward(self, z: Tensor) -> Tensor:
        image: Tensor = self.layers(torch.tanh(z * (self.scaling_factor / 3)) * 3)
        return image.mul(2).sub(1)


def initialise(module: nn.Module, seed: int) -> None:
    """Fill every convolution with torch's own default distribution, from a seed of its own.

    On the CPU and moved, so that all devices start from the same weights; nothing on ``meta``.
    """
    generator = torch.Generator().manual_seed(seed)
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            draw_weights(conv, generator)
