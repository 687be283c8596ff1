"""How well a student VAE stands in for the teacher's: reconstructions and latents of held-out images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from nas.fidelity.images import image_distances

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data.image_data import ImageData


class VaeQuality(BaseModel):
    """One VAE against the teacher's, on images that nothing was trained on.

    Attributes:
        psnr_db, ssim, perceptual: its reconstructions against the teacher's reconstructions, images in [0, 1];
            psnr_db is of the pooled squared error, None where they are equal.
        latent_cosine: mean over images of the cosine between its latents (posterior means) and the teacher's.
        latent_error: squared error of its latents as a share of the variance of the teacher's.
        std_error: squared error of its posterior's standard deviations, as the same share.
        latent_scale: standard deviation of its latents over that of the teacher's; the teacher is 1.
        psnr_to_images_db: its reconstructions against the images themselves; `teacher_psnr_to_images_db` the teacher's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_images: int
    psnr_db: float | None
    ssim: float
    perceptual: float
    latent_cosine: float
    latent_error: float
    std_error: float
    latent_scale: float
    psnr_to_images_db: float | None
    teacher_psnr_to_images_db: float | None


def vae_quality(teacher_vae: Any, vae: Any, data: ImageData) -> VaeQuality:
    """Compare `vae` with the teacher's on the held-out images of `data`."""
    import torch

    held = data.held_out
    mean, std = moments_of(vae, held.images)
    target = reconstructions(teacher_vae, held.mean)
    own = reconstructions(vae, mean)
    images = held.images / 2 + 0.5
    found = image_distances(teacher_vae, own, target)
    variance = float(held.mean.double().var())
    return VaeQuality(
        num_images=len(images),
        **found._asdict(),
        latent_cosine=float(
            torch.nn.functional.cosine_similarity(mean.double().flatten(1), held.mean.double().flatten(1)).mean()
        ),
        latent_error=float((mean.double() - held.mean.double()).square().mean()) / variance,
        std_error=float((std.double() - held.std.double()).square().mean()) / variance,
        latent_scale=float(mean.double().std() / held.mean.double().std()),
        psnr_to_images_db=image_distances(teacher_vae, own, images).psnr_db,
        teacher_psnr_to_images_db=image_distances(teacher_vae, target, images).psnr_db,
    )


def moments_of(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N, C, h, w), not scaled, of images (N, 3, H, W) in [-1, 1]."""
    import torch

    with torch.no_grad():
        found = [vae.encode(x).latent_dist for x in images.split(_at_once(images.shape[-1]))]
    return torch.cat([each.mean for each in found]), torch.cat([each.std for each in found])


def reconstructions(vae: Any, latents: Tensor) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] of latents (N, C, h, w) that are not scaled."""
    import torch

    size = latents.shape[-1] * 2 ** (len(vae.config.block_out_channels) - 1)
    with torch.no_grad():
        images = torch.cat([vae.decode(z, return_dict=False)[0] for z in latents.split(_at_once(size))])
    return (images / 2 + 0.5).clamp(0, 1)


def _at_once(size: int) -> int:
    """Images of so many pixels a side in one pass: memory is that of 16 of 64 pixels, or of one image."""
    return max(1, 16 * 64**2 // size**2)
