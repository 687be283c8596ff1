"""The run's training latents, encoded once and kept beside the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from nas.config import Recipe

if TYPE_CHECKING:
    from nas.data import LatentDataset
    from nas.teacher import Teacher


def cached_latents(teacher: Teacher, recipe: Recipe, path: Path) -> LatentDataset:
    """Latents and captions as the recipe says, from `path` when they were encoded before.

    A damaged cache is moved aside and encoded again.

    Raises:
        UserError: no usable images, or the cache cannot be written.
    """
    from nas.atomic import read_tensors, write_tensors
    from nas.data import LatentDataset, folder_latents, photo_latents

    parts = json.dumps([teacher.key, recipe.data.model_dump(mode="json"), recipe.seed], sort_keys=True)
    key = hashlib.sha256(parts.encode()).hexdigest()[:16]
    found = read_tensors(path, key)
    if found is not None:
        metadata, tensors = found
        return LatentDataset(
            tensors["latents"], json.loads(metadata["captions"]), tuple(json.loads(metadata["skipped"]))
        )
    if recipe.data.source == "folder":
        assert recipe.data.folder is not None, "a recipe with data.source folder has a folder"
        dataset = folder_latents(teacher, recipe.data.folder, recipe.data.num_images, recipe.seed)
    else:
        dataset = photo_latents(teacher, recipe.data.num_images, recipe.seed)
    metadata = {"key": key, "captions": json.dumps(dataset.captions), "skipped": json.dumps(list(dataset.skipped))}
    write_tensors(path, {"latents": dataset.latents}, metadata)
    return dataset
