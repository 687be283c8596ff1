"""variant.json: what an exported variant is, where it comes from and how to load it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

VARIANT_FILE = "variant.json"
CARD_FILE = "README.md"
CANDIDATE_FILE = "candidate.json"  # of `nanosd build`, whose folders hold networks without the rest of a pipeline
STANDARD_LOADER = "diffusers.StableDiffusionPipeline.from_pretrained"
STAGED_LOADER = "nas.export.load_variant"
RELOAD_TOLERANCE = 1e-5
EXPORT_AGAIN = "export the pick again into an empty folder"

Finite = Annotated[float, Field(allow_inf_nan=False)]
Interval = tuple[Finite, Finite]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lineage(_Frozen):
    """Where a variant comes from."""

    teacher: str
    teacher_key: str
    space: str
    candidate: str
    words: dict[str, str]


class Costs(_Frozen):
    """Size of the U-Net alone; 1 MAC = 2 FLOPs, attention products included."""

    num_params: int = Field(ge=0)
    num_macs: int | None = Field(default=None, ge=0)


class Latency(_Frozen):
    """U-Net latency in milliseconds, predicted by a profile of `device`, and measured on `measured_device`.

    They are not the same where a search on one machine was for another; `measured_device` is None in variants that were
    measured on `device`, and in those that were never measured.
    """

    device: str | None = None
    predicted_ms: Finite | None = None
    measured_device: str | None = None
    measured_ms: Finite | None = None
    teacher_measured_ms: Finite | None = None


class OnnxCheck(_Frozen):
    """One ONNX file run in onnxruntime against torch on the same inputs.

    `max_relative_error` is max|a - b| / max|b|, `relative_l2` is ||a - b|| / ||b||, b being torch's
    output; both are the worst over `num_inputs` inputs.
    """

    file: str
    subject: Literal["unet", "vae_decoder", "vae_encoder"]
    weights_key: str
    num_bytes: int
    opset: int
    batch_size: int
    num_inputs: int
    tolerance: Finite
    max_relative_error: Finite
    relative_l2: Finite


class VaeHalf(_Frozen):
    """One half of a variant's VAE; MACs are of one image of the size that the teacher was made for."""

    option: str
    costs: Costs
    teacher_costs: Costs
    bank_key: str | None = None


class VaePart(_Frozen):
    """A variant's own VAE; a variant without one has the teacher's.

    `quality` is that of `nas.fidelity.vae_quality`: reconstructions and latents against the teacher's on `num_images`
    images that nothing was trained on. `weights_key` and `reload_error` (see :class:`Variant`) are the export's.
    """

    encoder: VaeHalf
    decoder: VaeHalf
    quality: dict[str, Finite]
    num_images: int
    weights_key: str | None = None
    reload_error: Finite | None = None


class FileRecord(_Frozen):
    """Size and SHA-256 of one file of the variant."""

    num_bytes: int
    sha256: str


class VariantCard(_Frozen):
    """What the caller knows about a variant; the export adds the rest."""

    name: str
    space: str
    summary: str | None = None
    seeds: dict[str, int] = {}
    recipe_hash: str | None = None
    num_macs: int | None = Field(default=None, ge=0)
    teacher_costs: Costs | None = None
    latency: Latency = Latency()
    fidelity_before: dict[str, Finite] | None = None
    fidelity_after: dict[str, Finite] | None = None
    intervals_before: dict[str, Interval] = {}
    intervals_after: dict[str, Interval] = {}
    vae: VaePart | None = None
    settings: dict[str, dict[str, Finite]] = {}

    def content(self) -> dict[str, Any]:
        """What a content key covers: fields that came later only where they say something."""
        return self.model_dump(mode="json", exclude={name for name in _LATER if not getattr(self, name)})


#: Fields of cards that variants of earlier versions do not have.
_LATER = ("intervals_before", "intervals_after", "vae", "settings")


class Variant(_Frozen):
    """Content of variant.json.

    `reload_error` is max|a - b| / max|b| between the U-Net read back from the folder and the one that was
    exported. `content_key` covers everything that the caller gave, `weights_key` the U-Net's weights.
    """

    format_version: Literal[1] = 1
    name: str
    summary: str | None
    loads_with: str
    standard: bool
    not_standard_because: str | None
    reload_error: Finite
    lineage: Lineage
    seeds: dict[str, int]
    recipe_hash: str | None
    costs: Costs
    teacher_costs: Costs | None
    latency: Latency
    fidelity_before: dict[str, Finite] | None
    fidelity_after: dict[str, Finite] | None
    intervals_before: dict[str, Interval] = {}
    intervals_after: dict[str, Interval] = {}
    vae: VaePart | None = None
    settings: dict[str, dict[str, Finite]] = {}
    onnx: tuple[OnnxCheck, ...]
    images: tuple[str, ...]
    versions: dict[str, str]
    content_key: str
    weights_key: str
    files: dict[str, FileRecord]

    @property
    def has_attention(self) -> bool:
        """Whether any kept stage reads the prompt."""
        return any("A" in word for word in self.lineage.words.values())


def read_variant(folder: Path | str) -> Variant:
    """Read and validate `folder`/variant.json.

    Errors: `UserError` when there is none, or it is not what this version writes.
    """
    path = Path(folder) / VARIANT_FILE
    try:
        return Variant.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UserError(f"{path}: {where} is not valid ({first['msg']}); {EXPORT_AGAIN}") from error
    except OSError as error:
        if (Path(folder) / CANDIDATE_FILE).is_file():
            raise UserError(
                f"{folder} is not an exported variant but networks written by `nanosd build`; load those with the "
                f"classes that its {CANDIDATE_FILE} names under loads_with, and make a pipeline with "
                "nas.teacher.load_teacher(<its teacher>).pipeline(unet=..., vae=...)"
            ) from error
        raise UserError(
            f"{folder} is not an exported variant ({VARIANT_FILE}: {error.strerror}); give a folder written by "
            "`nanosd export`"
        ) from error


def check_variant_place(folder: Path) -> None:
    """Raise where a variant would be written over something else.

    Raises:
        UserError: a file, or a folder that holds something and no variant.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / VARIANT_FILE).is_file() or not any(folder.iterdir()))):
        raise UserError(
            f"folder {folder} exists and is not an exported variant: legal is a new, an empty or an earlier exported "
            "folder; choose another one or move it away"
        )


def to_json(variant: Variant) -> str:
    """Text of variant.json; the same variant gives the same bytes."""
    return json.dumps(variant.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"


def weights_key(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of SHA-256 over names, types, shapes and bytes of a state dict, in name order."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def content_key(*parts: object) -> str:
    """16 hexadecimal digits of SHA-256 over the JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file under `folder` but variant.json and the card made from it."""
    return {
        path.relative_to(folder).as_posix(): _record(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != VARIANT_FILE and path != folder / CARD_FILE
    }


def check_files(folder: Path, variant: Variant, hashes: bool = True) -> None:
    """Compare the files of a variant with variant.json.

    Errors: `UserError` naming the first file that is missing or differs, and the mend.
    """
    for name, expected in variant.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing from variant {variant.name}; {EXPORT_AGAIN}")
        num_bytes = path.stat().st_size
        if num_bytes != expected.num_bytes:
            raise UserError(f"{path} has {num_bytes} bytes, {expected.num_bytes} were written; {EXPORT_AGAIN}")
        if hashes and _record(path) != expected:
            raise UserError(f"{path} is damaged (its SHA-256 differs from {VARIANT_FILE}); {EXPORT_AGAIN}")


def versions() -> dict[str, str]:
    """Versions of Python and the libraries that decide what a variant computes."""
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in ("nanosd-nas", "torch", "diffusers", "transformers", "safetensors", "onnx", "onnxruntime"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _record(path: Path) -> FileRecord:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileRecord(num_bytes=path.stat().st_size, sha256=digest)
