"""A CLIP image encoder as feature extractor, from a transformers folder; nothing is downloaded.

The distance over CLIP's embeddings follows Kynkaanniemi et al. (2023) and Jayasumana et al. (2024): they see what an
image shows better than ImageNet's classes do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nas.fidelity.features import ImageFeatures
from search_spaces.errors import UserError

#: Mean and standard deviation of CLIP's training images; a preprocessor_config.json in the folder overrides them.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_CHUNK = 32


class ClipFeatures(ImageFeatures):
    """Projected image embeddings, not normalised.

    Images are resized (bicubic, antialiased) so that the short side fits the encoder, cut to the middle square,
    clipped to [0, 1] and normalised, as CLIP's own preprocessing does.

    Raises:
        UserError: no folder of a CLIP model, or weights that cannot be read.
    """

    name = "clip"

    def __init__(self, folder: Path | str, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__(decode, _CHUNK)
        from transformers import CLIPVisionModelWithProjection

        from nas.teacher_files import quiet_loading

        folder = Path(folder)
        weights = sorted(folder.glob("*.safetensors"))
        if not (folder / "config.json").is_file() or not weights:
            raise UserError(
                f"fidelity.features: no CLIP model in {folder}; give a transformers folder with config.json and "
                "model.safetensors, such as that of openai/clip-vit-large-patch14"
            )
        try:
            with quiet_loading():
                model, found = CLIPVisionModelWithProjection.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
            if found["missing_keys"]:
                raise ValueError(f"weights lack {sorted(found['missing_keys'])[0]}")
        except Exception as error:  # a dozen libraries' own types mean the same to the user
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"fidelity.features: {folder} cannot be loaded as a CLIP model ({reason})") from None
        self._model = model.float().eval().requires_grad_(False)
        self.dimension = int(model.config.projection_dim)
        self._size = int(model.config.image_size)
        self._mean, self._std = (torch.tensor(v).view(1, 3, 1, 1) for v in _normalisation(folder))
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for path in weights:
            digest.update(path.read_bytes())
        self.key = f"clip-{digest.hexdigest()[:16]}"

    def _features(self, images: Tensor) -> Tensor:
        return self._model(pixel_values=self.prepare(images)).image_embeds

    def prepare(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] as the encoder takes them, (N, 3, size, size)."""
        height, width = images.shape[-2:]
        short, size = min(height, width), self._size
        shape = (height * size // short, width * size // short)
        x = F.interpolate(images.float(), shape, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        return (x[..., top : top + size, left : left + size] - self._mean) / self._std


def _normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    import json

    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return MEAN, STD
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        mean, std = (tuple(float(v) for v in data[name]) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("three channels are needed")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"fidelity.features: {path} has no image_mean and image_std of three numbers ({error})"
        ) from None
    return mean, std
