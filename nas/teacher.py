"""The teacher: a Stable-Diffusion-format pipeline from a bundled name, a folder or a hub id."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas.random_teacher import write_random_teacher
from nas.teacher_files import bundled_teachers, config_file, quiet_loading, resolve
from search_spaces.errors import UserError

__all__ = ["Teacher", "bundled_teachers", "folder_key", "load_shapes", "load_teacher", "write_random_teacher"]

_COMPONENTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": None,
    "scheduler": None,
}
# Where it is not config.json; the tokenizer does without.
_CONFIGS = {"tokenizer": None, "scheduler": "scheduler_config.json"}
_CHUNK = 64  # prompts, or images of 64x64 pixels, at a time; larger images in fewer, which bounds the memory


@dataclass(frozen=True)
class Teacher:
    """A loaded teacher; every network in eval mode, float32, without gradients.

    key: 16 hex digits of a SHA-256 over weights and configs: what banks and caches are keyed by.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    folder: Path
    spec: str
    key: str

    @property
    def latent_size(self) -> int:
        """Height and width of the latents that the teacher was made for."""
        size = self.unet.config.sample_size
        return int(size if isinstance(size, int) else size[0])

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def num_tokens(self) -> int:
        """Tokens of every (padded) prompt."""
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))

    @property
    def vae_scale(self) -> int:
        """Pixels per latent along one side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def image_size(self) -> int:
        """Height and width of images in pixels."""
        return self.latent_size * self.vae_scale

    @property
    def _images_at_once(self) -> int:
        return max(1, _CHUNK * 64**2 // self.image_size**2)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Prompt embeddings (N, num_tokens, dim), float32, as the pipeline makes them."""
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=self.num_tokens, truncation=True, return_tensors="pt"
        ).input_ids
        return torch.cat([self.text_encoder(ids)[0] for ids in tokens.split(_CHUNK)])

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Scaled latents (N, C, h, w) of images (N, 3, H, W) in [-1, 1]: the posterior mean."""
        means = [self.vae.encode(x).latent_dist.mean for x in images.split(self._images_at_once)]
        return torch.cat(means) * float(self.vae.config.scaling_factor)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] of scaled latents (N, C, h, w)."""
        latents = latents / float(self.vae.config.scaling_factor)
        images = torch.cat([self.vae.decode(z).sample for z in latents.split(self._images_at_once)])
        return (images / 2 + 0.5).clamp(0, 1)

    def pipeline(self, unet: Any = None, vae: Any = None) -> Any:
        """A StableDiffusionPipeline around this teacher, with another U-Net or VAE if given."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae if vae is None else vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet if unet is None else unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load_teacher(spec: str | Path) -> Teacher:
    """Load a teacher.

    Args:
        spec: a bundled name ("toy"), a folder in diffusers layout, or a hub id ("owner/name"; the local
            cache is used first). Weights are read from safetensors only.

    Raises:
        UserError: not found, not in diffusers layout, not a Stable Diffusion pipeline, or unreadable weights.
    """
    folder = resolve(str(spec))
    _check_layout(folder)
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        with quiet_loading():
            unet = _whole(UNet2DConditionModel, folder / "unet")
            vae = _whole(AutoencoderKL, folder / "vae")
            text = _whole(CLIPTextModel, folder / "text_encoder")
            _check_tokenizer(folder / "tokenizer")
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            scheduler = _load_scheduler(folder)
    except UserError:
        raise
    except Exception as error:  # a dozen libraries' own types mean the same to the user: a damaged folder
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"teacher {str(spec)!r} cannot be loaded from {folder}: {type(error).__name__}: {reason}; "
            "restore the damaged file or give another teacher"
        ) from error
    for module in (unet, vae, text):
        module.eval().requires_grad_(False)
    return Teacher(unet, vae, text, tokenizer, scheduler, folder, str(spec), folder_key(folder))


def load_shapes(spec: str | Path) -> tuple[Any, Any]:
    """U-Net and VAE of a teacher on the ``meta`` device: shapes without weights, in no time.

    Args:
        spec: as for :func:`load_teacher`; a folder needs only the configurations, ``unet/`` and ``vae/``, and of a
            hub id only these are fetched.

    Raises:
        UserError: not found, or configurations that are missing, damaged or of other classes.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel

    shapes = []
    for name, model_class in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        path = config_file(str(spec), name)
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            found = config.get("_class_name", model_class.__name__)
            if found != model_class.__name__:
                raise UserError(f"teacher {str(spec)!r}: {path} is of {found!r}; legal is {model_class.__name__!r}")
            with torch.device("meta"):
                shapes.append(model_class.from_config(config).eval())
        except UserError:
            raise
        except Exception as error:  # whatever a model raises on a damaged configuration means this to the user
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"teacher {str(spec)!r}: {path} cannot be used ({type(error).__name__}: {reason}); restore the file"
            ) from error
    return shapes[0], shapes[1]


def num_text_tokens(spec: str | Path) -> int:
    """Tokens of a teacher's prompts: what its text encoder takes, or its tokenizer where that makes fewer.

    Args:
        spec: as for :func:`load_teacher`; a folder needs only ``text_encoder/config.json``, and
            ``tokenizer/tokenizer_config.json`` if there is one; of a hub id only these are fetched.

    Raises:
        UserError: not found, or a configuration that does not say so.
    """
    path = config_file(str(spec), "text_encoder")
    try:
        num_tokens = int(json.loads(path.read_text(encoding="utf-8"))["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"teacher {str(spec)!r}: {path} does not say how many text tokens there are (max_position_embeddings); "
            "restore the file, or give the number"
        ) from None
    return min(num_tokens, _tokenizer_limit(spec) or num_tokens)


def _tokenizer_limit(spec: str | Path) -> int | None:
    """Most tokens that a teacher's tokenizer makes; None where there is none, or it has no limit."""
    try:
        path = config_file(str(spec), "tokenizer", "tokenizer_config.json")
        return int(json.loads(path.read_text(encoding="utf-8"))["model_max_length"])
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return None


def folder_key(folder: Path) -> str:
    """16 hex digits of a SHA-256 over the weights and configs of a diffusers folder.

    Model cards, images and shared-cache names do not count, so a copied or renamed folder keeps its key.
    """
    digest = hashlib.sha256()
    for component in sorted(_COMPONENTS):
        for path in sorted((folder / component).iterdir()):
            if path.suffix not in (".json", ".safetensors", ".txt"):
                continue
            digest.update(f"{component}/{path.name}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    digest.update(block)
    return digest.hexdigest()[:16]


def _check_layout(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(
            f"teacher folder {folder} has no model_index.json; give a folder in diffusers layout "
            "(as StableDiffusionPipeline.save_pretrained writes it)"
        )
    try:
        content = json.loads(index.read_text())
        classes = {name: content[name][1] if name in content else None for name in _COMPONENTS}
    except (ValueError, TypeError, LookupError) as error:
        raise UserError(f"teacher folder {folder}: model_index.json cannot be read ({error}); restore it") from error
    for name, legal in _COMPONENTS.items():
        if not (folder / name).is_dir():
            raise UserError(f"teacher folder {folder} has no {name}/; a Stable Diffusion pipeline needs it")
        config = _CONFIGS.get(name, "config.json")
        if config is not None and not (folder / name / config).is_file():
            raise UserError(f"teacher folder {folder} has no {name}/{config}; restore the file or give another teacher")
        if legal is not None and classes[name] != legal:
            raise UserError(
                f"teacher folder {folder} is not in Stable Diffusion format: {name} is {classes[name]!r}, "
                f"legal is {legal!r}"
            )


def _check_tokenizer(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise UserError(
            f"{folder} has no vocabulary; legal is tokenizer.json, or vocab.json with merges.txt: restore the files"
        )


def _whole(model_class: Any, folder: Path) -> Any:
    """A model with every one of its weights from the file, all finite; loaders fill gaps with noise in silence."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True, **_weights(folder))
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} weights are missing, {missing[0]!r} the first of them; "
            "restore the safetensors file"
        )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"{folder}: weight {name!r} has values that are not finite; restore the safetensors file")
    return model


def _weights(folder: Path) -> dict[str, Any]:
    """Arguments that make from_pretrained read these safetensors as float32, whatever precision they have."""
    names = [path.name for path in folder.glob("*.safetensors")]
    if not names:
        raise UserError(
            f"{folder} has no .safetensors weights; other formats are not read, "
            "convert them with save_pretrained(..., safe_serialization=True)"
        )
    options: dict[str, Any] = {"use_safetensors": True, "torch_dtype": torch.float32, "local_files_only": True}
    if all(".fp16" in name for name in names):
        options["variant"] = "fp16"
    return options


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    name = config.get("_class_name")
    if not isinstance(name, str) or not name.endswith("Scheduler") or not hasattr(diffusers, name):
        raise UserError(f"teacher folder {folder}: unknown scheduler class {name!r}; diffusers' schedulers are legal")
    return getattr(diffusers, name).from_pretrained(folder / "scheduler")
