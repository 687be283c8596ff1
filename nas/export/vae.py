"""A variant's own VAE on disk: read back and compared, and its encoder as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.export.onnx import TOLERANCE, export_checked
from nas.export.variant import RELOAD_TOLERANCE, OnnxCheck, VaePart, weights_key

if TYPE_CHECKING:
    from torch import Tensor, nn

    from search_spaces.vae import StagedVAE

VAE_ENCODER_FILE = "vae_encoder.onnx"


def why_vae_not_standard(vae: StagedVAE | None) -> str | None:
    """Why plain diffusers has no class for this VAE; None where it is the teacher's."""
    if vae is None or vae.is_teachers:
        return None
    halves = [f"{stage} {option}" for stage, option in vae.options.items() if option != "teacher"]
    return f"the VAE has halves that are tiny ResNets: {', '.join(halves)}"


def check_vae(vae: StagedVAE, part: VaePart | None, folder: Path, image_size: int) -> VaePart:
    """What variant.json says of a VAE that was written to `folder`, which is read back and compared."""
    import torch

    from nas.export.load import quiet_libraries

    assert part is not None, "the card of a variant with a VAE of its own says what it is"
    with quiet_libraries():
        reloaded = type(vae).from_pretrained(folder, use_safetensors=True, local_files_only=True).eval()
    images = _images(image_size, vae.config.in_channels)
    error = 0.0
    with torch.no_grad():
        expected = vae.encode(images).latent_dist.mean
        for own, other in (
            (expected, reloaded.encode(images).latent_dist.mean),
            (vae.decode(expected, return_dict=False)[0], reloaded.decode(expected, return_dict=False)[0]),
        ):
            error = max(error, float((own - other).abs().max() / own.abs().max()))
    # Not a user's mistake: the export must never hand out a network that computes something else.
    if not error <= RELOAD_TOLERANCE:
        raise RuntimeError(f"exported VAE differs by {error:.1e} (relative)")
    return part.model_copy(update={"weights_key": weights_key(vae.state_dict()), "reload_error": error})


def export_onnx_vae_encoder(
    vae: Any, folder: Path | str, *, image_size: int, batch_size: int = 1, tolerance: float = TOLERANCE
) -> OnnxCheck:
    """Write `folder`/vae_encoder.onnx (`images` (batch, 3, H, W) in [-1, 1] to `latents` (batch, C, h, w)), compared.

    The graph gives the posterior's mean times the VAE's scaling factor: latents as the U-Net works on them.

    Raises:
        OnnxMismatch: above the tolerance, or not finite; the file is not left there.
        UserError: the folder cannot be written.
    """
    parts = {name: tensor for name, tensor in vae.state_dict().items() if name.startswith(("encoder.", "quant_conv."))}
    return export_checked(
        vae,
        _encoder(vae),
        Path(folder) / VAE_ENCODER_FILE,
        "vae_encoder",
        [(_images(image_size, vae.config.in_channels, batch_size, seed),) for seed in range(3)],
        ("images",),
        "latents",
        weights_key(parts),
        tolerance,
    )


def _images(size: int, channels: int, num: int = 1, seed: int = 0) -> Tensor:
    import torch

    return torch.rand(num, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def _encoder(vae: Any) -> nn.Module:
    """The VAE's encoder as a function from images to the U-Net's latents."""
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, images: Tensor) -> Tensor:
            mean: Tensor = self.vae.encode(images).latent_dist.mean
            return mean * self.vae.config.scaling_factor

    return Encoder()
