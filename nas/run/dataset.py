"""The run's training latents, encoded once and kept beside the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nas.recipe import Data, Recipe

if TYPE_CHECKING:
    from nas.data import LatentDataset
    from nas.data.image_data import ImageData
    from nas.data.sources import Source
    from nas.teacher import Teacher

# Fields of the first version, which are in every key; later ones only where they differ from their default.
_FIRST = ("source", "folder", "num_images")


def cached_latents(
    teacher: Teacher, recipe: Recipe, work: Path, on_progress: Callable[[int], None] | None = None
) -> LatentDataset:
    """Latents and captions as the recipe says, from shards in `work`/latents that were encoded before.

    What a killed process encoded is kept, and a damaged shard is encoded again.

    Args:
        on_progress: called with the number of latents that are there.

    Raises:
        UserError: no usable images, or the shards cannot be written.
    """
    from nas.data.cache import cached

    key = _key(teacher, recipe)
    old = _of_one_file(work / "latents.safetensors", key)
    if old is not None:
        return old
    return cached(work / "latents", key, lambda: _source(teacher, recipe), teacher, recipe.data.num_images, on_progress)


def cached_pixels(
    teacher: Teacher, recipe: Recipe, work: Path, on_progress: Callable[[int], None] | None = None
) -> ImageData:
    """Images for the VAE's distillation from the recipe's data, made once and kept in `work`.

    Raises:
        UserError: no usable images, fewer than two different ones, or a file that cannot be written.
    """
    from nas.data.image_data import cached_images

    num = recipe.vae.num_images
    path = work / "vae-images.safetensors"
    # The number of images that the search encodes does not count: the same ones are the first of both.
    data = recipe.data.model_copy(update={"num_images": num})
    key = _key(teacher, recipe.model_copy(update={"data": data}))
    return cached_images(path, key, lambda: _source(teacher, recipe), teacher, num, on_progress)


def is_cached(teacher: Teacher, recipe: Recipe, work: Path) -> bool:
    """Whether `cached_latents` would have nothing to encode."""
    from nas.data.cache import is_complete

    key = _key(teacher, recipe)
    return is_complete(work / "latents", key) or _of_one_file(work / "latents.safetensors", key) is not None


def _key(teacher: Teacher, recipe: Recipe) -> str:
    data, usual = recipe.data.model_dump(mode="json"), Data().model_dump(mode="json")
    fields = {name: value for name, value in data.items() if name in _FIRST or value != usual[name]}
    parts = json.dumps([teacher.key, fields, recipe.seed], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _source(teacher: Teacher, recipe: Recipe) -> Source:
    """Where the recipe's data comes from."""
    from nas.data.images import PhotoSource, folder_source
    from nas.data.teacher_made import TeacherSource, read_prompts
    from nas.data.webdataset import shard_source

    data = recipe.data
    if data.source == "folder":
        assert data.folder is not None, "a recipe with data.source folder has a folder"
        return folder_source(data.folder, teacher.image_size, recipe.seed)
    if data.source == "shards":
        assert data.shards is not None, "a recipe with data.source shards has shards"
        return shard_source(data.shards, teacher.image_size, recipe.seed)
    if data.source == "teacher":
        prompts = read_prompts(data.prompts) if data.prompts is not None else ()
        return TeacherSource(teacher, prompts, recipe.seed, data.ddim_steps, data.guidance)
    return PhotoSource(recipe.seed, teacher.image_size)


def _of_one_file(path: Path, key: str) -> LatentDataset | None:
    """The latents of a run by an early version, which kept them in one file."""
    from nas.atomic import read_tensors
    from nas.data import LatentDataset

    found = read_tensors(path, key)
    if found is None:
        return None
    metadata, tensors = found
    return LatentDataset(tensors["latents"], json.loads(metadata["captions"]), tuple(json.loads(metadata["skipped"])))
