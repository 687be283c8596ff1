"""What the Frechet distance looks at: the teacher's VAE latents, pooled."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch


def pooled_latents(latents: torch.Tensor, grid: int = 4) -> npt.NDArray[np.float64]:
    """Average-pooled latents: (N, C, h, w) -> float64 (N, C * g * g), g = min(grid, h, w).

    A latent of the teacher's VAE is a learned feature map already; its coarse layout and colour are what
    a sampled image shares with the prompt. Coarse cells keep d well below the sample counts in use (64
    numbers at grid 4 and 4 channels), for the bias of the distance grows with d * (d + 5) / N.
    """
    import numpy as np
    import torch.nn.functional as F

    g = min(grid, *latents.shape[-2:])
    pooled = F.adaptive_avg_pool2d(latents.detach().float(), (g, g))
    return np.asarray(pooled.flatten(1).cpu().numpy(), dtype=np.float64)
