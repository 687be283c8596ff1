"""Training data of the search: latents with captions from photographs, folders, tar shards or the teacher itself."""

from nas.data.dataset import NULL_SHARE, Batch, LatentDataset, batches, step_generator
from nas.data.images import IMAGE_SUFFIXES, folder_latents, photo_latents

__all__ = [
    "IMAGE_SUFFIXES",
    "NULL_SHARE",
    "Batch",
    "LatentDataset",
    "batches",
    "folder_latents",
    "photo_latents",
    "step_generator",
]
