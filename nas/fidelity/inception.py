"""The Inception network of the Frechet Inception distance, with weights given by path; nothing is downloaded.

The network of Szegedy et al. (2016) as TensorFlow's `inception-2015-12-05` graph has it, which is not torchvision's:
average pooling leaves the padding out, the last block pools by maximum, there are 1,008 classes. Names of modules are
those of the converted file `pt_inception-2015-12-05-6726825d.pth` that pytorch-fid and torch-fidelity both publish
(Apache 2.0). Pixels go through TensorFlow 1's bilinear resize to 299 x 299 and (x - 128) / 128, as in torch-fidelity;
pytorch-fid resizes as PyTorch does, so that its scores differ a little from the original ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.fidelity.features import ImageFeatures
from search_spaces.errors import UserError

DIMENSION = 2048
SIZE = 299
_CHUNK = 16
_UNUSED = ("fc.", "AuxLogits.")


class _Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _along(inputs: int, outputs: int, length: int, axis: int) -> _Conv:
    """A convolution of `length` along the rows (axis 0: height) or the columns (axis 1) that keeps the size."""
    kernel, padding = [1, 1], [0, 0]
    kernel[axis], padding[axis] = length, length // 2
    return _Conv(inputs, outputs, (kernel[0], kernel[1]), padding=tuple(padding))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class _A(nn.Module):
    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = _Conv(inputs, 48, 1), _Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = _Conv(64, 96, 3, padding=1), _Conv(96, 96, 3, padding=1)
        self.branch_pool = _Conv(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], 1)


class _B(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = _Conv(inputs, 64, 1)
        self.branch3x3dbl_2, self.branch3x3dbl_3 = _Conv(64, 96, 3, padding=1), _Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class _C(nn.Module):
    def __init__(self, inputs: int, c: int) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 192, 1)
        self.branch7x7_1 = _Conv(inputs, c, 1)
        self.branch7x7_2, self.branch7x7_3 = _along(c, c, 7, 1), _along(c, 192, 7, 0)
        self.branch7x7dbl_1 = _Conv(inputs, c, 1)
        self.branch7x7dbl_2, self.branch7x7dbl_3 = _along(c, c, 7, 0), _along(c, c, 7, 1)
        self.branch7x7dbl_4, self.branch7x7dbl_5 = _along(c, c, 7, 0), _along(c, 192, 7, 1)
        self.branch_pool = _Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class _D(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = _Conv(inputs, 192, 1), _Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = _Conv(inputs, 192, 1)
        self.branch7x7x3_2, self.branch7x7x3_3 = _along(192, 192, 7, 1), _along(192, 192, 7, 0)
        self.branch7x7x3_4 = _Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, stride=2)], 1)


class _E(nn.Module):
    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.branch1x1 = _Conv(inputs, 320, 1)
        self.branch3x3_1 = _Conv(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = _along(384, 384, 3, 1), _along(384, 384, 3, 0)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = _Conv(inputs, 448, 1), _Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = _along(384, 384, 3, 1), _along(384, 384, 3, 0)
        self.branch_pool = _Conv(inputs, 192, 1)
        self._pool = pool

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        parts += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self._pool(x))]
        return torch.cat(parts, 1)


class FidInception(nn.Module):
    """Images (N, 3, H, W) with values 0 to 255 -> features (N, 2048) of the last average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = _Conv(3, 32, 3, stride=2), _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1, self.Conv2d_4a_3x3 = _Conv(64, 80, 1), _Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _A(192, 32), _A(256, 64), _A(288, 64)
        self.Mixed_6a, self.Mixed_6b = _B(288), _C(768, 128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _C(768, 160), _C(768, 160), _C(768, 192)
        self.Mixed_7a, self.Mixed_7b = _D(768), _E(1280, _average)
        self.Mixed_7c = _E(2048, lambda x: F.max_pool2d(x, 3, stride=1, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        x = (resize_as_tensorflow(pixels) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, stride=2)))
        x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3))


def resize_as_tensorflow(x: Tensor, size: int = SIZE) -> Tensor:
    """Bilinear resize of (N, C, H, W) to `size` square as TensorFlow 1 did: cell i reads position i * H / size."""

    def weights(length: int) -> tuple[Tensor, Tensor, Tensor]:
        place = torch.arange(size, dtype=x.dtype) * torch.tensor(length / size, dtype=x.dtype)
        low = place.long()
        return low, (low + 1).clamp_max(length - 1), place - low

    low, high, part = weights(x.shape[2])
    left, right, across = weights(x.shape[3])
    top = x[:, :, low][..., left] + (x[:, :, low][..., right] - x[:, :, low][..., left]) * across
    bottom = x[:, :, high][..., left] + (x[:, :, high][..., right] - x[:, :, high][..., left]) * across
    return top + (bottom - top) * part[:, None]


def load_inception(path: Path | str) -> FidInception:
    """The network with the weights of a .pth (read without pickle's code) or .safetensors file.

    Raises:
        UserError: no such file, not such weights.
    """
    path = Path(path)
    what = "the weights pt_inception-2015-12-05-6726825d.pth of pytorch-fid or torch-fidelity"
    if not path.is_file():
        raise UserError(f"fidelity.features: no Inception weights at {path}; give the path of {what}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        # Written before batch norm counted its batches; the classifier is not used.
        state = {k: v for k, v in state.items() if not k.startswith(_UNUSED) and not k.endswith("num_batches_tracked")}
        model = FidInception()
        missing, unexpected = model.load_state_dict(state, strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    except Exception as error:  # unpickling and shapes fail in many types that mean the same to the user
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"fidelity.features: {path} cannot be read as Inception weights ({reason}); give {what}"
        ) from None
    if missing or unexpected:
        name = f"lacks {missing[0]}" if missing else f"has {unexpected[0]} that the network lacks"
        raise UserError(f"fidelity.features: {path} {name}; give {what}")
    return model.eval().requires_grad_(False)


class InceptionFeatures(ImageFeatures):
    """Pooled features of the FID Inception; images are rounded to 8 bits first, as image files are.

    Raises:
        UserError: as :func:`load_inception`.
    """

    name = "inception"
    dimension = DIMENSION

    def __init__(self, path: Path | str, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__(decode, _CHUNK)
        self._model = load_inception(path)
        self.key = f"inception-{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"

    def _features(self, images: Tensor) -> Tensor:
        return self._model((images.clamp(0, 1) * 255).round())
