"""What the Frechet distance looks at: feature extractors behind one small protocol, and those of the teacher itself.

`make_features` turns the recipe's `fidelity.features` into one. Kinds:

latents          the teacher's VAE latents, pooled to a coarse grid: nothing is decoded, no download (the default).
vae-encoder      channel means after each level of the teacher's VAE encoder, on the decoded images.
unet-encoder     channel means after each level of the teacher's U-Net encoder, on the latents at a low noise level.
inception:FILE   the FID Inception's 2048 pooled features (`nas.fidelity.inception`), weights by path.
clip:FOLDER      a CLIP image encoder's projected embedding (`nas.fidelity.clip`), a transformers folder by path.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from nas.fidelity.settings import FEATURES_LEGAL
from search_spaces.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from nas.teacher import Teacher

    Floats = npt.NDArray[np.float64]

#: Timestep, of 1,000, at which the U-Net sees clean latents: low, where its encoder still sees the whole image.
UNET_TIMESTEP = 50
_CHUNK = 64


class FeatureExtractor(Protocol):
    """Turns samples into features (N, dimension), float64.

    `key` names everything that decides the features beside the teacher: caches and evaluators are keyed by it.
    """

    @property
    def name(self) -> str: ...
    @property
    def dimension(self) -> int: ...
    @property
    def key(self) -> str: ...

    def of_latents(self, latents: Tensor) -> Floats:
        """Features of scaled latents (N, C, h, w)."""

    def of_images(self, images: Tensor) -> Floats:
        """Features of images (N, 3, H, W) in [0, 1]."""


def make_features(spec: str, teacher: Teacher, pool_grid: int = 4) -> FeatureExtractor:
    """The extractor that a recipe names.

    Args:
        spec: a kind, or `kind:path`.
        teacher: whose VAE encodes and decodes, and whose networks the embedded kinds look with.
        pool_grid: cells a side of `latents`.

    Raises:
        UserError: an unknown kind, a path that is missing or not needed, or weights that do not fit.
    """
    kind, _, path = spec.partition(":")
    embedded: dict[str, Callable[[], FeatureExtractor]] = {
        "latents": lambda: PooledLatents(teacher, pool_grid),
        "vae-encoder": lambda: VaeEncoder(teacher),
        "unet-encoder": lambda: UNetEncoder(teacher),
    }
    if kind in embedded and not path:
        return embedded[kind]()
    if kind == "inception" and path:
        from nas.fidelity.inception import InceptionFeatures

        return InceptionFeatures(path, teacher.decode_latents)
    if kind == "clip" and path:
        from nas.fidelity.clip import ClipFeatures

        return ClipFeatures(path, teacher.decode_latents)
    raise UserError(f"fidelity.features: {spec!r}; legal are {FEATURES_LEGAL}")


def pooled_latents(latents: Tensor, grid: int = 4) -> Floats:
    """Average-pooled latents: (N, C, h, w) -> float64 (N, C * g * g), g = min(grid, h, w).

    A latent of the teacher's VAE is a learned feature map already; its coarse layout and colour are what
    a sampled image shares with the prompt. Coarse cells keep d well below the sample counts in use (64
    numbers at grid 4 and 4 channels), for the bias of the distance grows with d * (d + 5) / N.
    """
    import torch.nn.functional as F

    g = min(grid, *latents.shape[-2:])
    return to_floats(F.adaptive_avg_pool2d(latents.detach().float(), (g, g)).flatten(1))


def to_floats(features: Tensor) -> Floats:
    """A tensor of features as float64."""
    import numpy as np

    return np.asarray(features.detach().cpu().numpy(), dtype=np.float64)


class PooledLatents:
    """`pooled_latents` as an extractor."""

    name = "latents"

    def __init__(self, teacher: Teacher, grid: int = 4) -> None:
        self._teacher, self._grid = teacher, grid

    @property
    def dimension(self) -> int:
        return int(self._teacher.latent_channels * min(self._grid, self._teacher.latent_size) ** 2)

    @property
    def key(self) -> str:
        return f"latents-{self._grid}"

    def of_latents(self, latents: Tensor) -> Floats:
        return pooled_latents(latents, self._grid)

    def of_images(self, images: Tensor) -> Floats:
        return self.of_latents(self._teacher.encode_images(images * 2 - 1))


class ImageFeatures:
    """Base of extractors that look at images: latents are decoded first, by `decode` to (N, 3, H, W) in [0, 1]."""

    def __init__(self, decode: Callable[[Tensor], Tensor], chunk: int) -> None:
        self._decode, self._chunk = decode, chunk

    def of_latents(self, latents: Tensor) -> Floats:
        """Features of scaled latents (N, C, h, w), decoded."""
        import numpy as np

        return np.concatenate([self.of_images(self._decode(z)) for z in latents.split(self._chunk)])

    def of_images(self, images: Tensor) -> Floats:
        """Features of images (N, 3, H, W) in [0, 1]."""
        import torch

        with torch.no_grad():
            return to_floats(torch.cat([self._features(x) for x in images.split(self._chunk)]))

    def _features(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class VaeEncoder(ImageFeatures):
    """Channel means of the VAE encoder's feature maps after each level, of images."""

    name = "vae-encoder"
    key = "vae-encoder-1"

    def __init__(self, teacher: Teacher) -> None:
        super().__init__(teacher.decode_latents, max(1, _CHUNK * 64**2 // teacher.image_size**2))
        self._encoder = teacher.vae.encoder
        self.dimension = int(sum(teacher.vae.config.block_out_channels))

    def _features(self, images: Tensor) -> Tensor:
        import torch

        return torch.cat([h.mean((2, 3)) for h in vae_levels(self._encoder, images)], dim=1)


def vae_levels(encoder: Any, images: Tensor) -> list[Tensor]:
    """Feature maps (N, c, h, w) after each level of a diffusers VAE encoder, of images (N, 3, H, W) in [0, 1]."""
    maps, h = [], encoder.conv_in(images * 2 - 1)
    for block in encoder.down_blocks:
        h = block(h)
        maps.append(h)
    return maps


class UNetEncoder:
    """Channel means after each level of the U-Net's encoder, of latents at `UNET_TIMESTEP` with the empty prompt.

    The noise that is added is the same for every sample, from a fixed seed.
    """

    name = "unet-encoder"
    key = f"unet-encoder-{UNET_TIMESTEP}"

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self.dimension = int(sum(teacher.unet.config.block_out_channels))

    @cached_property
    def _null_context(self) -> Tensor:
        return self._teacher.encode_prompts([""]).detach()

    def of_latents(self, latents: Tensor) -> Floats:
        import numpy as np
        import torch

        with torch.no_grad():
            return np.concatenate([to_floats(self._levels(z.float())) for z in latents.split(_CHUNK)])

    def of_images(self, images: Tensor) -> Floats:
        return self.of_latents(self._teacher.encode_images(images * 2 - 1))

    def _levels(self, latents: Tensor) -> Tensor:
        import torch

        from nas.sampling import add_noise, alphas_cumprod

        unet, n = self._teacher.unet, len(latents)
        alphas = alphas_cumprod(self._teacher.scheduler.config)
        steps = torch.full((n,), UNET_TIMESTEP * len(alphas) // 1000)
        noise = torch.randn(1, *latents.shape[1:], generator=torch.Generator().manual_seed(0))
        means: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _m, _i, out: means.append(out[0].mean((2, 3))))
            for block in unet.down_blocks
        ]
        try:
            noisy = add_noise(alphas, latents, noise.expand_as(latents), steps)
            unet(noisy, steps, self._null_context.expand(n, -1, -1), return_dict=False)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(means, dim=1)
