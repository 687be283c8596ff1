"""The toy teacher: a small real Stable-Diffusion-format pipeline, and how it is made and released."""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """The bundled weights in diffusers layout (entry point `nanosd.teachers: toy`)."""
    return Path(__file__).parent / "weights"
