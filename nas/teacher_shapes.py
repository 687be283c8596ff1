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
    """A teacher's U-Net on the meta device, and the sizes of its inputs.

    Attributes:
        unet: diffusers' U-Net on ``meta``.
        latent_size: height and width of the latents.
        num_tokens, context_dim: the text context is (1, num_tokens, context_dim).
        spec: what it was asked for as.
    """

    unet: Any
    latent_size: int
    num_tokens: int
    context_dim: int
    spec: str


def teacher_shapes(spec: str, latent_size: int | None = None, num_tokens: int | None = None) -> TeacherShapes:
    """The shapes of a teacher.

    Args:
        spec: ``sd15``, a bundled name, a diffusers folder or a hub id, of which configurations are enough.
        latent_size, num_tokens: instead of the teacher's own.

    Raises:
        UserError: not found, or configurations that cannot be used.
    """
    from nas.teacher import load_shapes, num_text_tokens
    from search_spaces.conditioning import text_width

    if spec == SD15 and not Path(spec).is_dir():
        unet, tokens = _sd15(), 77
    else:
        unet, _ = load_shapes(spec)
        tokens = num_tokens or num_text_tokens(spec)
    size = latent_size or unet.config.sample_size
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise UserError(f"teacher {spec!r}: sample_size {size!r} of its U-Net is no square; give --latent-size")
    return TeacherShapes(unet, size, num_tokens or tokens, text_width(unet.config), spec)


def _sd15() -> Any:
    import torch
    from diffusers import UNet2DConditionModel

    from nas.random_teacher import SD15_UNET

    with torch.device("meta"):
        return UNet2DConditionModel(**SD15_UNET).eval()
