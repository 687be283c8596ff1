"""Profiles that come with the package, by name."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable


def shipped_profiles() -> dict[str, Traversable]:
    """Files by name, such as ``sm8750-w8a16``."""
    folder = resources.files("latency_predictors") / "profiles"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return {f.name.removesuffix(".json"): f for f in files}
