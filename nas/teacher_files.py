"""Where the files of a teacher are: bundled with a package, in a folder, in the hub's cache or on the hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from search_spaces.errors import UserError

ENTRY_POINTS = "nanosd.teachers"


def bundled_teachers() -> dict[str, Any]:
    """Names of teachers that installed packages bring, with their entry points."""
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def resolve(spec: str) -> Path:
    """The folder of a teacher; of a hub id the local cache's, fetched if need be.

    Raises:
        UserError: neither a bundled name, nor a folder, nor a hub id that can be fetched.
    """
    folder = _local(spec)
    return _from_hub(spec) if folder is None else folder


def config_file(spec: str, component: str, name: str = "config.json") -> Path:
    """Where the configuration of a part of a teacher is; of a hub id only this one small file is fetched.

    Raises:
        UserError: as :func:`resolve`. Whether a folder has the file is not looked at.
    """
    folder = _local(spec)
    return _config_from_hub(spec, f"{component}/{name}") if folder is None else folder / component / name


def _local(spec: str) -> Path | None:
    """The folder of a bundled or local teacher; ``None``: a hub id."""
    points = bundled_teachers()
    path = Path(spec).expanduser()
    if spec in points:
        return Path(points[spec].load()())
    if path.is_dir():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", spec) and not path.exists():
        return None
    if not points and re.fullmatch(r"[\w-]+", spec):
        raise UserError(
            f"teacher {spec!r} not found: no bundled teachers are registered, because the package is not installed; "
            "run pip install -e . in the repository, or give a diffusers folder"
        )
    names = ", ".join(sorted(points)) or "none"
    raise UserError(
        f"teacher {spec!r} not found; legal are a diffusers folder, a hub id (owner/name) or a bundled name ({names})"
    )


def _from_hub(spec: str) -> Path:
    from diffusers import DiffusionPipeline

    return _fetched(spec, lambda local: DiffusionPipeline.download(spec, use_safetensors=True, local_files_only=local))


def _config_from_hub(spec: str, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    return _fetched(spec, lambda local: hf_hub_download(spec, name, local_files_only=local), name)


def _fetched(spec: str, fetch: Callable[[bool], Any], what: str = "it") -> Path:
    """What ``fetch(local_files_only)`` finds in the local cache or else on the hub."""
    errors = []
    for local in (True, False):
        try:
            with quiet_loading():
                return Path(fetch(local))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
    raise UserError(
        f"teacher {spec!r} is no local folder, and {what} is not in the local cache and could not be fetched from the "
        f"hub ({errors[-1]}); check the name and the connection, or give a diffusers folder"
    )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars of transformers while loading: a phase has one progress line, ours."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
