"""What a latency depends on of a teacher: shapes. No weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError

SD15 = "sd15"
"""Stable Diffusion 1.5's shapes by name: they need no file."""


@dataclass(frozen=True)
class TeacherShapes:
    """A teacher's networks on the meta device, and the sizes of their inputs.

    Attributes:
        unet, vae: diffusers' networks on ``meta``.
        latent_size: height and width of the latents.
        num_tokens, context_dim: the text context is (1, num_tokens, context_dim).
        spec: what it was asked for as.
    """

    unet: Any
    vae: Any
    latent_size: int
    num_tokens: int
    context_dim: int
    spec: str


def teacher_shapes(spec: str | Path, latent_size: int | None = None, num_tokens: int | None = None) -> TeacherShapes:
    """The shapes of a teacher.

    Args:
        spec: ``sd15``, a bundled name, a diffusers folder or a hub id, of which configurations are enough.
        latent_size, num_tokens: instead of the teacher's own.

    Raises:
        UserError: not found, configurations that cannot be used, or oblong latents.
    """
    from search_spaces.conditioning import text_width

    spec = str(spec)
    unet, vae = networks(spec)
    size = latent_size or unet.config.sample_size
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise UserError(
            f"teacher {spec!r}: sample_size {size!r} of its U-Net is no square; give a teacher of square latents, or "
            "--latent-size to commands that have it"
        )
    return TeacherShapes(unet, vae, size, num_tokens or num_tokens_of(spec), text_width(unet.config), spec)


def networks(spec: str) -> tuple[Any, Any]:
    """U-Net and VAE of a teacher on ``meta``; arguments and errors as of :func:`teacher_shapes`."""
    from nas.teacher import load_shapes

    return _sd15() if _is_sd15(spec) else load_shapes(spec)


def num_tokens_of(spec: str) -> int:
    """Tokens of a teacher's text; arguments and errors as of :func:`teacher_shapes`."""
    from nas.teacher import num_text_tokens

    return 77 if _is_sd15(spec) else num_text_tokens(spec)


def _is_sd15(spec: str) -> bool:
    return spec == SD15 and not Path(spec).is_dir()


def _sd15() -> tuple[Any, Any]:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from nas.random_teacher import SD15_UNET, SD15_VAE

    with torch.device("meta"):
        return UNet2DConditionModel(**SD15_UNET).eval(), AutoencoderKL(**SD15_VAE).eval()
