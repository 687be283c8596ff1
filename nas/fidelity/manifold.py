"""Whether a student's samples lie on the teacher's manifold: embedding cosine, and smoothness of interpolation."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]


def embedding_cosine(student: npt.ArrayLike, teacher: npt.ArrayLike) -> float:
    """Mean cosine of paired features (N, d), each less the teacher's mean: 1 equal directions, 0 unrelated.

    Without the mean taken off, any two images of one teacher would have a cosine near 1.
    """
    x, y = np.asarray(student, dtype=np.float64), np.asarray(teacher, dtype=np.float64)
    x, y = x - y.mean(axis=0), y - y.mean(axis=0)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return float(((x * y).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())


def slerp(first: Tensor, second: Tensor, part: Tensor) -> Tensor:
    """Points on the great circle between noises (C, h, w), at parts (K,) of the way: (K, C, h, w) (Shoemake 1985).

    A straight line between two Gaussian noises passes through ones too short to be noise; the circle does not.
    """
    a, b = first.flatten().double(), second.flatten().double()
    cosine = (a @ b / (a.norm() * b.norm())).clamp(-1, 1)
    angle = torch.arccos(cosine)
    t = part.double()[:, None]
    if float(torch.sin(angle)) < 1e-6:
        points = (1 - t) * a + t * b
    else:
        points = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
    return points.to(first.dtype).view(len(part), *first.shape)


class Smoothness(NamedTuple):
    """Paths of a student's samples while the noise goes from one to another, against the teacher's.

    `path_length_ratio` is the mean over paths of student's length over teacher's; `largest_jump_ratio` that of the
    largest step over the teacher's largest step.
    """

    path_length_ratio: float
    largest_jump_ratio: float


def interpolation_smoothness(student: Floats, teacher: Floats) -> Smoothness:
    """Smoothness of paths (paths, points, d) of samples."""
    mine, theirs = (np.linalg.norm(np.diff(x, axis=1), axis=2) for x in (student, teacher))
    length = mine.sum(axis=1) / np.maximum(theirs.sum(axis=1), 1e-12)
    jump = mine.max(axis=1) / np.maximum(theirs.max(axis=1), 1e-12)
    return Smoothness(float(length.mean()), float(jump.mean()))


def sampled_paths(sample: Callable[[Tensor], Tensor], noise: Tensor, num_points: int) -> Floats:
    """Flattened samples (paths, points, d) along great circles between noises 0-1, 2-3, ... of (2 paths, C, h, w).

    Args:
        sample: final latents (paths * points, C, h, w) of such noise; the points of one path lie together.
    """
    part = torch.linspace(0, 1, num_points)
    points = torch.cat([slerp(noise[i], noise[i + 1], part) for i in range(0, len(noise) - 1, 2)])
    samples = sample(points)
    return np.asarray(samples.double().cpu().numpy()).reshape(len(noise) // 2, num_points, -1)
