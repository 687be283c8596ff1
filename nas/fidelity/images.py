"""Paired images: PSNR, SSIM, and a perceptual distance that needs no download."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Floats = npt.NDArray[np.float64]


class ImageDistances(NamedTuple):
    """Means over pairs of images; `psnr_db` is of the mean squared error of all, None where they are equal."""

    psnr_db: float | None
    ssim: float
    perceptual: float


def image_distances(vae: Any, first: Tensor, second: Tensor) -> ImageDistances:
    """Distances of images (N, 3, H, W) in [0, 1], row by row.

    Args:
        vae: the teacher's, whose encoder is what `perceptual` looks with.
    """
    squared = float((first.double() - second.double()).square().mean())
    return ImageDistances(
        psnr_db=-10 * math.log10(squared) if squared > 0 else None,
        ssim=float(ssim(first, second).mean()),
        perceptual=float(perceptual_distance(vae, first, second).mean()),
    )


def ssim(first: Tensor, second: Tensor) -> Floats:
    """Structural similarity (N,) of images (N, 3, H, W) in [0, 1] by Wang et al. (2004): Gaussian window, sigma 1.5."""
    from skimage.metrics import structural_similarity

    pairs = zip(first.double().cpu().numpy(), second.double().cpu().numpy(), strict=True)
    return np.array(
        [
            structural_similarity(
                a, b, channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
            )
            for a, b in pairs
        ]
    )


def perceptual_distance(vae: Any, first: Tensor, second: Tensor, chunk: int | None = None) -> Floats:
    """Distance (N,) of images (N, 3, H, W) in [0, 1] in the VAE encoder's features, 0 to 4.

    As LPIPS without learned weights (Zhang et al. 2018, equation 1): feature maps after each level of the encoder,
    scaled to unit length across channels at each position; squared difference, mean over positions, mean over levels.
    The network is the teacher's own VAE encoder instead of VGG, so values of different teachers do not compare.
    """
    import torch

    from nas.fidelity.features import to_floats, vae_levels

    # Unless told: memory is that of 16 images of 64 pixels, or of one.
    chunk = chunk or max(1, 16 * 64**2 // first.shape[-1] ** 2)
    found = []
    with torch.no_grad():
        for a, b in zip(first.split(chunk), second.split(chunk), strict=True):
            each = perceptual_terms(vae_levels(vae.encoder, a), vae_levels(vae.encoder, b))
            found.append(to_floats(torch.stack(each).mean(0)))
    return np.concatenate(found)


def perceptual_terms(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    """One distance (N,) a level between feature maps (N, c, h, w): see :func:`perceptual_distance`."""
    import torch.nn.functional as F

    return [
        (F.normalize(h, dim=1, eps=1e-8) - F.normalize(g, dim=1, eps=1e-8)).square().sum(1).mean((1, 2))
        for h, g in zip(first, second, strict=True)
    ]
