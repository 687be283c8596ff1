"""Finished picks on disk: diffusers folders, ONNX graphs, images and the closing measurement.

Names are imported when they are first used, since torch and diffusers take seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.export.closing import ClosingRow, ClosingSettings, measure_closing
    from nas.export.diffusers import annotate_variant, export_diffusers
    from nas.export.images import ImageSettings, sample_images
    from nas.export.load import load_variant
    from nas.export.onnx import export_onnx_unet, export_onnx_vae_decoder
    from nas.export.variant import Costs, Latency, Variant, VariantCard, read_variant

_HOMES = {
    "ClosingRow": "closing",
    "ClosingSettings": "closing",
    "measure_closing": "closing",
    "annotate_variant": "diffusers",
    "export_diffusers": "diffusers",
    "load_variant": "load",
    "ImageSettings": "images",
    "sample_images": "images",
    "export_onnx_unet": "onnx",
    "export_onnx_vae_decoder": "onnx",
    "Costs": "variant",
    "Latency": "variant",
    "Variant": "variant",
    "VariantCard": "variant",
    "read_variant": "variant",
}

__all__ = [
    "ClosingRow",
    "ClosingSettings",
    "Costs",
    "ImageSettings",
    "Latency",
    "Variant",
    "VariantCard",
    "annotate_variant",
    "export_diffusers",
    "export_onnx_unet",
    "export_onnx_vae_decoder",
    "load_variant",
    "measure_closing",
    "read_variant",
    "sample_images",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
