"""What halves of a VAE are trained by: the teacher's moments for encoders, its images for decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nas.fidelity.features import vae_levels
from nas.fidelity.images import perceptual_terms


def moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N, C, h, w) of an encoder's output (N, 2C, h, w), as diffusers' posterior has it."""
    mean, log_variance = output.chunk(2, dim=1)
    return mean, log_variance.clamp(-30.0, 20.0).mul(0.5).exp()


def encoder_loss(output: Tensor, mean: Tensor, std: Tensor, variance: Tensor) -> Tensor:
    """(|mu_s - mu_t|^2 + |sigma_s - sigma_t|^2) / Var(mu_t), means over elements; a scalar.

    NanoSD (arXiv 2601.09823), VAE distillation; divided by the variance of the teacher's means, so that 1 is about what
    an encoder costs that says nothing.

    Args:
        output: the student's moments (N, 2C, h, w), mean then log-variance.
        mean, std: the teacher's (N, C, h, w).
        variance: of the teacher's means.
    """
    own_mean, own_std = moments(output)
    return ((own_mean - mean).square().mean() + (own_std - std).square().mean()) / variance


def decoder_loss(vae: Any, output: Tensor, target: Tensor, target_maps: Sequence[Tensor], weight: float) -> Tensor:
    """Mean |x_s - x_t| plus `weight` times the perceptual distance of `perceptual_maps`; a scalar.

    Args:
        vae: the teacher's, whose encoder looks at the images.
        output: the student's images (N, 3, H, W) in [-1, 1].
        target: the teacher's images of the same latents.
        target_maps: `perceptual_maps` of the target; empty with weight 0.
        weight: of the perceptual distance.
    """
    loss = (output - target).abs().mean()
    if weight == 0:
        return loss
    return loss + weight * torch.stack(perceptual_terms(perceptual_maps(vae, output), target_maps)).mean()


def perceptual_maps(vae: Any, images: Tensor) -> list[Tensor]:
    """Feature maps after each level of the VAE's encoder, of images (N, 3, H, W) in [-1, 1]."""
    return vae_levels(vae.encoder, images / 2 + 0.5)
