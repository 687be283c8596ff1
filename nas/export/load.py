"""Loading exported variants of either kind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nas.export.variant import EXPORT_AGAIN, check_files, read_variant
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def load_variant(folder: Path | str, *, check_hashes: bool = True) -> StableDiffusionPipeline:
    """Load an exported variant of either kind as a `StableDiffusionPipeline` (float32, CPU, eval).

    Args:
        folder: written by `export_diffusers`.
        check_hashes: compare every file's SHA-256 with variant.json; sizes are compared in any case.

    Raises:
        UserError: no variant, damaged or missing files, weights that are not safetensors.
    """
    folder = Path(folder)
    variant = read_variant(folder)
    check_files(folder, variant, hashes=check_hashes)
    for path in [*folder.rglob("*.bin"), *folder.rglob("*.ckpt"), *folder.rglob("*.pt")]:
        raise UserError(f"{path} is a pickle; variants hold safetensors only; remove it or {EXPORT_AGAIN}")
    # diffusers finds the class of a non-standard U-Net or VAE only in a module that is already imported.
    import search_spaces.unet
    import search_spaces.vae  # noqa: F401

    with quiet_libraries():
        from diffusers import StableDiffusionPipeline

        try:
            pipeline = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"variant {folder} does not load: {reason}; {EXPORT_AGAIN}") from error
    for part in ("unet", "vae", "text_encoder"):
        getattr(pipeline, part).eval().requires_grad_(False)
    return pipeline


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and the type remark about `StagedUNet`; both come back afterwards."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    other_level, other_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        transformers_logging.set_verbosity(other_level)
        if bars:
            logging.enable_progress_bar()
        if other_bars:
            transformers_logging.enable_progress_bar()
