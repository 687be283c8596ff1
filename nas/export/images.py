"""Images of teacher and picks from the same noise and the same prompts, so that they can be laid side by side."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from nas.atomic import write_bytes, write_json
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas.teacher import Teacher

CAPTIONS_FILE = "captions.json"


class ImageSettings(BaseModel):
    """How images are sampled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_steps: int = Field(default=20, ge=1)
    guidance: float = Field(default=2.0, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0)


def sample_images(
    teacher: Teacher,
    models: Mapping[str, nn.Module],
    prompts: Sequence[str],
    folder: Path | str,
    settings: ImageSettings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Path]]:
    """Sample every model from the same noise (one per prompt) with DDIM and write PNGs.

    Args:
        teacher: gives prompts' embeddings, scheduler and VAE; it is sampled too when it is in `models`.
        models: U-Nets by name; a name is a folder name.
        prompts: one image per prompt and model.
        folder: gets <model>/<i>.png and captions.json.
        settings: steps, guidance and seed of the noise.
        on_progress: called with models done and their number.

    Returns:
        Paths by model, in the order of the prompts.

    Raises:
        UserError: no prompt, a name that is no folder name, a model that gives images that are not finite, or a
            folder that cannot be written.
    """
    import torch

    from nas.sampling import ddim_sample

    settings = settings or ImageSettings()
    folder = Path(folder)
    if not prompts:
        raise UserError("prompts: none given; legal is one or more texts")
    for name in models:
        if not name or Path(name).name != name or name.startswith("."):
            raise UserError(f"model name {name!r} is no folder name; legal are letters, digits, '-', '_' and '.'")
    noise = initial_noise(teacher, len(prompts), settings.seed)
    paths: dict[str, list[Path]] = {}
    with torch.no_grad():
        context = teacher.encode_prompts(list(prompts))
        null_context = teacher.encode_prompts([""] * len(prompts))
        for done, (name, unet) in enumerate(models.items()):
            if on_progress is not None:
                on_progress(done, len(models))
            latents = ddim_sample(
                unet, teacher.scheduler.config, noise, context, null_context, settings.num_steps, settings.guidance
            )
            pixels = teacher.decode_latents(latents)
            if not torch.isfinite(pixels).all():
                raise UserError(f"model {name} gives images that are not finite; align it longer or pick another one")
            paths[name] = [_write_png(image, folder / name / f"{i}.png") for i, image in enumerate(pixels)]
    if on_progress is not None:
        on_progress(len(models), len(models))
    write_json(folder / CAPTIONS_FILE, _captions(prompts, list(models), settings))
    return paths


def initial_noise(teacher: Teacher, num: int, seed: int) -> Tensor:
    """Standard normal latents (num, C, h, w); image i is the same whatever `num` is."""
    import torch

    shape = (teacher.latent_channels, teacher.latent_size, teacher.latent_size)
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1_000_003 + i)) for i in range(num)]
    )


def _captions(prompts: Sequence[str], models: Sequence[str], settings: ImageSettings) -> dict[str, Any]:
    return {
        "captions": list(prompts),
        "models": list(models),
        "settings": settings.model_dump(mode="json"),
    }


def _write_png(image: Tensor, path: Path) -> Path:
    """Write one image (3, H, W) in [0, 1]."""
    from PIL import Image

    array = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return write_bytes(path, buffer.getvalue())
