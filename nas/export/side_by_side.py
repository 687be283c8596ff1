"""Pictures for a model card: one column an image, one row a network, the teacher above its students."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.atomic import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data.image_data import ImageData
    from nas.recipe import Fidelity as Sampler
    from nas.teacher import Teacher

NUM_COLUMNS = 6
MIN_PIXELS = 128
_GAP = 4


def picture_samples(
    teacher: Teacher, unets: Mapping[str, Any], vae: Any, prompts: Sequence[str], folder: Path, sampler: Sampler
) -> Path:
    """The teacher's images, then those of every U-Net decoded by `vae` (None: the teacher's), from the same noise.

    Sampled as a candidate's fidelity is (`sampler`: the recipe's section).

    Returns:
        The path of the PNG in `folder`.
    """
    import torch

    from nas.export.images import initial_noise
    from nas.fidelity.vae_quality import reconstructions
    from nas.sampling import ddim_sample

    noise = initial_noise(teacher, len(prompts), 0)
    scale = float(teacher.vae.config.scaling_factor)
    rows, how = [], (sampler.ddim_steps, sampler.guidance)
    with torch.no_grad():
        context = teacher.encode_prompts(list(prompts))
        null = teacher.encode_prompts([""])
        for name, unet in {"teacher": teacher.unet, **unets}.items():
            latents = ddim_sample(unet, teacher.scheduler.config, noise, context, null, *how)
            decoder = teacher.vae if vae is None or name == "teacher" else vae
            rows.append(reconstructions(decoder, latents / scale))
    return write_grid(rows, folder / "teacher-before-after.png")


def picture_reconstructions(teacher_vae: Any, vae: Any, data: ImageData, folder: Path) -> Path:
    """Held-out images, the teacher's reconstructions and the student's; the path of the PNG in `folder`."""
    from nas.fidelity.vae_quality import moments_of, reconstructions

    images = data.held_out.images[:NUM_COLUMNS]
    rows = [images / 2 + 0.5]
    rows += [reconstructions(each, moments_of(each, images)[0]) for each in (teacher_vae, vae)]
    return write_grid(rows, folder / "image-teacher-student.png")


def write_grid(rows: Sequence[Tensor], path: Path) -> Path:
    """Write rows of images (N, 3, H, W) in [0, 1] as one PNG with white gaps; small ones enlarged by whole pixels."""
    import torch
    from PIL import Image

    times = max(1, -(-MIN_PIXELS // rows[0].shape[-1]))
    lines = [torch.nn.functional.pad(row, (0, _GAP, 0, _GAP), value=1.0) for row in _enlarged(rows, times)]
    grid = torch.cat([torch.cat(list(line), dim=2) for line in lines], dim=1)[:, :-_GAP, :-_GAP]
    buffer = io.BytesIO()
    pixels = (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return write_bytes(path, buffer.getvalue())


def _enlarged(rows: Sequence[Tensor], times: int) -> list[Tensor]:
    return [row.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3) for row in rows]
