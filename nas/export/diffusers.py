"""A variant as a Stable Diffusion pipeline folder in the diffusers format.

Where the words allow it, the U-Net is written as a standard `UNet2DConditionModel` and plain
`StableDiffusionPipeline.from_pretrained(folder)` loads the folder. diffusers ties a decoder stage to one
layer more than its encoder stage and reads every skip once; other words are written as our `StagedUNet`.
model_index.json then names `search_spaces.unet`: diffusers imports no module that a folder names, so
without NanoSD it stops with an error that says which module to import, and `load_variant` (or
`import search_spaces.unet` before plain diffusers) loads it. A student VAE is a `StagedVAE` of `search_spaces.vae` in
the same way. No code lies in the folder in either case.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.atomic import write_bytes
from nas.export.card import render_card
from nas.export.folders import publish_folder, recover
from nas.export.load import quiet_libraries
from nas.export.portable import align_tensors, drop_machine_paths
from nas.export.vae import check_vae, why_vae_not_standard
from nas.export.variant import (
    CARD_FILE,
    RELOAD_TOLERANCE,
    STAGED_LOADER,
    STANDARD_LOADER,
    VARIANT_FILE,
    Costs,
    Latency,
    Lineage,
    OnnxCheck,
    Variant,
    VariantCard,
    check_files,
    content_key,
    read_variant,
    record_files,
    to_json,
    versions,
    weights_key,
)
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from nas.teacher import Teacher
    from search_spaces.unet import StagedUNet
    from search_spaces.vae import StagedVAE

_IMAGES = "images"


def export_diffusers(
    teacher: Teacher,
    staged: StagedUNet,
    folder: Path | str,
    card: VariantCard,
    *,
    onnx: bool = False,
    vae_onnx: bool = False,
    images: Mapping[str, Path] | None = None,
    vae: StagedVAE | None = None,
) -> Variant:
    """Write `staged` with the teacher's other parts as a pipeline folder, and say what it is.

    Args:
        teacher: gives text encoder, tokenizer and scheduler, and the VAE where the variant has none of its own.
        staged: the finished U-Net.
        folder: appears whole or not at all; an earlier variant there is replaced.
        card: name, seeds, recipe, costs, latency and fidelity for variant.json and README.md.
        onnx: also write and check unet.onnx.
        vae_onnx: also write and check vae_decoder.onnx, and vae_encoder.onnx of a VAE of its own.
        images: PNG files by file stem, copied into images/ and shown in README.md.
        vae: the variant's own; `card.vae` then says what it is. Without one the teacher's is written.

    Returns:
        The content of variant.json. When `folder` already holds the same content, undamaged, nothing is
        written and what was there is returned.

    Raises:
        UserError: `folder` holds something else, or cannot be written.
    """
    folder = Path(folder)
    pictures = dict(images or {})
    weights = weights_key(staged.state_dict())
    key = content_key(
        teacher.key,
        weights,
        staged.candidate.options,
        card.content(),
        {"onnx": onnx, "vae_onnx": vae_onnx},
        {name: _file_hash(path) for name, path in pictures.items()},
        *([] if vae is None else [weights_key(vae.state_dict())]),
    )
    recover(folder)
    existing = _finished(folder, key)
    if existing is not None:
        return existing

    unet_reason = _why_not_standard(staged)
    reason = "; ".join(filter(None, (unet_reason, why_vae_not_standard(vae)))) or None
    variant: Variant | None = None

    def write(temporary: Path) -> None:
        nonlocal variant
        error = _write_pipeline(teacher, staged, temporary, unet_reason is None, vae)
        vae_part = None if vae is None else check_vae(vae, card.vae, temporary / "vae", teacher.image_size)
        checks = _write_onnx(teacher, staged, temporary, weights, onnx, vae_onnx, vae)
        names = _copy_images(pictures, temporary)
        variant = Variant(
            name=card.name,
            summary=card.summary,
            loads_with=STANDARD_LOADER if reason is None else STAGED_LOADER,
            standard=reason is None,
            not_standard_because=reason,
            reload_error=error,
            lineage=Lineage(
                teacher=teacher.spec,
                teacher_key=teacher.key,
                space=card.space,
                candidate=staged.candidate.id,
                words=dict(staged.candidate.options),
            ),
            seeds=card.seeds,
            recipe_hash=card.recipe_hash,
            costs=Costs(num_params=sum(p.numel() for p in staged.parameters()), num_macs=card.num_macs),
            teacher_costs=card.teacher_costs,
            latency=card.latency,
            fidelity_before=card.fidelity_before,
            fidelity_after=card.fidelity_after,
            intervals_before=card.intervals_before,
            intervals_after=card.intervals_after,
            vae=vae_part,
            settings=card.settings,
            onnx=checks,
            images=names,
            versions=versions(),
            content_key=key,
            weights_key=weights,
            files=record_files(temporary),
        )
        (temporary / CARD_FILE).write_text(render_card(variant), encoding="utf-8")
        (temporary / VARIANT_FILE).write_text(to_json(variant), encoding="utf-8")

    publish_folder(folder, write, is_ours=lambda path: (path / VARIANT_FILE).is_file())
    assert variant is not None
    return variant


def annotate_variant(
    folder: Path | str, *, latency: Latency | None = None, fidelity_after: Mapping[str, float] | None = None
) -> Variant:
    """Put figures that were measured on the finished export into variant.json and README.md.

    The content key stays that of the export, so exporting the same pick again still changes nothing.

    Raises:
        UserError: no variant there, or it cannot be written.
    """
    folder = Path(folder)
    variant = read_variant(folder)
    changes: dict[str, Any] = {}
    if latency is not None:
        changes["latency"] = latency
    if fidelity_after is not None:
        changes["fidelity_after"] = dict(fidelity_after)
    variant = Variant.model_validate({**variant.model_dump(), **changes})
    write_bytes(folder / VARIANT_FILE, to_json(variant).encode())
    write_bytes(folder / CARD_FILE, render_card(variant).encode())
    return variant


def _finished(folder: Path, key: str) -> Variant | None:
    """The variant in `folder` when it is the wanted content and undamaged."""
    try:
        variant = read_variant(folder)
        if variant.content_key != key:
            return None
        check_files(folder, variant)
    except UserError:
        return None
    if not (folder / CARD_FILE).is_file():
        write_bytes(folder / CARD_FILE, render_card(variant).encode())
    return variant


def _why_not_standard(staged: StagedUNet) -> str | None:
    import torch
    from diffusers import UNet2DConditionModel

    from search_spaces.standard import why_not_standard

    config: Any = staged.config
    with torch.device("meta"):
        shapes = UNet2DConditionModel.from_config(config.teacher_config)
    return why_not_standard(shapes, staged.candidate)


def _write_pipeline(teacher: Teacher, staged: StagedUNet, folder: Path, standard: bool, vae: StagedVAE | None) -> float:
    """Write the pipeline; returns the largest relative difference of the U-Net read back."""
    from diffusers import UNet2DConditionModel

    from search_spaces.standard import to_diffusers
    from search_spaces.unet import StagedUNet

    with quiet_libraries():
        unet = to_diffusers(staged) if standard else staged
        teacher.pipeline(unet=unet, vae=vae).save_pretrained(folder, safe_serialization=True)
        drop_machine_paths(folder)
        for path in folder.glob("*/*.safetensors"):
            align_tensors(path)
        kind = UNet2DConditionModel if standard else StagedUNet
        reloaded = kind.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
    error = _difference(staged, reloaded, teacher)
    # Not a user's mistake: the export must never hand out a network that computes something else.
    if not error <= RELOAD_TOLERANCE:
        raise RuntimeError(f"exported U-Net differs from {staged.candidate.id} by {error:.1e} (relative)")
    return error


def _difference(staged: StagedUNet, reloaded: nn.Module, teacher: Teacher) -> float:
    import torch

    from nas.export.inputs import unet_inputs

    was_training = staged.training
    try:
        with torch.no_grad():
            inputs = unet_inputs(staged, teacher.num_tokens, timestep=500)
            expected = staged.eval()(*inputs, return_dict=False)[0]
            got = reloaded.eval()(*inputs, return_dict=False)[0]
    finally:
        staged.train(was_training)
    return float((got - expected).abs().max() / expected.abs().max())


def _write_onnx(
    teacher: Teacher,
    staged: StagedUNet,
    folder: Path,
    weights: str,
    onnx: bool,
    vae_onnx: bool,
    vae: StagedVAE | None,
) -> tuple[OnnxCheck, ...]:
    if not (onnx or vae_onnx):
        return ()
    from nas.export.onnx import export_onnx_unet, export_onnx_vae_decoder
    from nas.export.vae import export_onnx_vae_encoder

    checks = []
    if onnx:
        checks.append(export_onnx_unet(staged, folder, num_tokens=teacher.num_tokens, weights=weights))
    if vae_onnx:
        checks.append(export_onnx_vae_decoder(vae or teacher.vae, folder, latent_size=teacher.latent_size))
        if vae is not None:
            checks.append(export_onnx_vae_encoder(vae, folder, image_size=teacher.image_size))
    return tuple(checks)


def _copy_images(pictures: Mapping[str, Path], folder: Path) -> tuple[str, ...]:
    names = []
    for name, source in pictures.items():
        target = folder / _IMAGES / f"{name}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, target)
        names.append(f"{_IMAGES}/{name}.png")
    return tuple(names)


def _file_hash(path: Path) -> str:
    import hashlib

    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"image {path} cannot be read: {error.strerror}; give an existing PNG file") from error
