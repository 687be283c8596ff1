"""A staged U-Net's stages on the kernels: the values of the modules they are made from, up to rounding.

With classifier-free guidance a network sees every sample twice, without and with the prompt. Up to the first
cross-attention both passes are the same, so features are lanes: one tensor while they agree, one for each pass after.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.nanosd_bench.kernels import Pointers, pack1, pack3, per_sample
from experiments.nanosd_bench.shards import SAMPLES

Lanes = tuple[Tensor, ...]
"""Features (channels, pixels, 16): one of all passes, or one a pass."""


class Prompts:
    """Text contexts (16, tokens, D), one a pass; keys and values of them are computed once a block."""

    def __init__(self, *contexts: Tensor) -> None:
        self.contexts = contexts
        self._known: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def keys_values(self, block: TransformerBlock) -> list[tuple[Tensor, Tensor]]:
        """For every pass keys and values (channels, tokens, 16)."""
        found = self._known.get(id(block))
        if found is None:
            found = [
                (_by_sample(F.linear(c, block.key_weight)), _by_sample(F.linear(c, block.value_weight)))
                for c in self.contexts
            ]
            self._known[id(block)] = found
        return found


class Step:
    """Time embeddings (1 or 16, D); what every residual block makes of them is computed once."""

    def __init__(self, embedding: Tensor) -> None:
        self._activated = F.silu(embedding)
        self._known: dict[int, Tensor] = {}

    def projected(self, block: ResidualBlock) -> Tensor:
        """What the block adds after its first convolution, that one's bias included: (channels, 16)."""
        found = self._known.get(id(block))
        if found is None:
            added = F.linear(self._activated, block.time_weight, block.time_bias)
            found = self._known[id(block)] = per_sample(added[0] if len(added) == 1 else added)
        return found


class ResidualBlock:
    """Diffusers' ResnetBlock2D of a Stable Diffusion U-Net at one width."""

    def __init__(self, library: Any, block: Any, width: int) -> None:
        self._call, self._width = library.residual, width
        self.inputs, self.outputs = block.conv1.in_channels, block.conv1.out_channels
        self._groups, self._eps = block.norm1.num_groups, block.norm1.eps
        self.time_weight, self.time_bias = block.time_emb_proj.weight, block.time_emb_proj.bias + block.conv1.bias
        shortcut = block.conv_shortcut
        self._weights = Pointers(
            [
                *(block.norm1.weight, block.norm1.bias, pack3(block.conv1.weight, width)),
                *(block.norm2.weight, block.norm2.bias, pack3(block.conv2.weight, width)),
                per_sample(block.conv2.bias),
                *((None, None) if shortcut is None else (pack1(shortcut.weight), shortcut.bias)),
            ]
        )

    def __call__(self, h: Tensor, step: Step) -> Tensor:
        out = torch.empty(self.outputs, h.shape[1], SAMPLES)
        time = step.projected(self).data_ptr()
        shape = (self.inputs, self.outputs, self._groups, self._eps)
        self._call(self._width, h.data_ptr(), out.data_ptr(), *shape, time, self._weights.address)
        return out


class TransformerBlock:
    """Diffusers' Transformer2DModel of a Stable Diffusion U-Net, one layer deep, at one width."""

    def __init__(self, library: Any, block: Any, width: int) -> None:
        self._first, self._second, self._width = library.transformer_first, library.transformer_second, width
        (layer,) = block.transformer_blocks
        own, cross, feed = layer.attn1, layer.attn2, layer.ff.net
        self._channels, self._groups, self._heads = block.norm.num_channels, block.norm.num_groups, own.heads
        self.key_weight, self.value_weight = cross.to_k.weight, cross.to_v.weight
        self._to_attention = Pointers(
            [
                *(block.norm.weight, block.norm.bias, pack1(block.proj_in.weight), block.proj_in.bias),
                *(layer.norm1.weight, layer.norm1.bias),
                *(pack1(m.weight) for m in (own.to_q, own.to_k, own.to_v, own.to_out[0])),
                own.to_out[0].bias,
            ]
        )
        self._from_prompt = Pointers(
            [
                *(layer.norm2.weight, layer.norm2.bias, pack1(cross.to_q.weight)),
                *(pack1(cross.to_out[0].weight), cross.to_out[0].bias, layer.norm3.weight, layer.norm3.bias),
                *(pack1(feed[0].proj.weight), feed[0].proj.bias, pack1(feed[2].weight), feed[2].bias),
                *(pack1(block.proj_out.weight), block.proj_out.bias),
            ]
        )

    def __call__(self, lanes: Lanes, prompts: Prompts) -> Lanes:
        attended = [torch.empty_like(h) for h in lanes]
        for h, x in zip(lanes, attended, strict=True):
            shape = (self._channels, self._groups, self._heads)
            self._first(self._width, h.data_ptr(), x.data_ptr(), *shape, self._to_attention.address)
        outputs = []
        for number, (keys, values) in enumerate(prompts.keys_values(self)):
            lane = number if len(lanes) > 1 else 0
            h, x, out = lanes[lane], attended[lane], torch.empty_like(lanes[lane])
            shape = (self._channels, self._heads, keys.shape[1])
            pointers = (keys.data_ptr(), values.data_ptr(), self._from_prompt.address)
            self._second(self._width, x.data_ptr(), h.data_ptr(), out.data_ptr(), *shape, *pointers)
            outputs.append(out)
        return tuple(outputs)


class Convolution:
    """A 3x3 convolution: `step` -1 halves the width, 1 doubles it (nearest neighbours first), 0 keeps it."""

    def __init__(self, library: Any, convolution: Any, width: int, step: int = 0) -> None:
        self._call, self._width, self._step = library.convolution, width, step
        self._channels = (convolution.in_channels, convolution.out_channels)
        self._out_width = {-1: width // 2, 0: width, 1: 2 * width}[step]
        self._bias = per_sample(convolution.bias.detach())
        self._weight = pack3(convolution.weight.detach(), self._out_width)

    def __call__(self, h: Tensor) -> Tensor:
        out = torch.empty(self._channels[1], self._out_width**2, SAMPLES)
        weights = (self._bias.data_ptr(), self._weight.data_ptr())
        self._call(self._width, self._step, h.data_ptr(), out.data_ptr(), *self._channels, *weights)
        return out


class EncoderOutputs(NamedTuple):
    """Skips of an encoder stage, first layer first, and what enters the next stage."""

    skips: tuple[Lanes, ...]
    h: Lanes


class Stage:
    """An encoder or decoder stage of a staged U-Net at one width."""

    def __init__(self, library: Any, stage: Any, width: int) -> None:
        self._resnets = [ResidualBlock(library, block, width) for block in stage.resnets]
        self._attentions = {int(i): TransformerBlock(library, a, width) for i, a in stage.attentions.items()}
        down, up = getattr(stage, "downsampler", None), getattr(stage, "upsampler", None)
        self._resample = None
        if down is not None:
            self._resample = Convolution(library, down.conv, width, -1)
        elif up is not None:
            self._resample = Convolution(library, up.conv, width, 1)
        self._num_skips, self._skips = getattr(stage, "num_skips", 0), getattr(stage, "skips", ())

    def encode(self, h: Lanes, step: Step, prompts: Prompts) -> EncoderOutputs:
        """As `search_spaces.unet.EncoderStage`; without a downsampler the last skip goes on."""
        skips: list[Lanes] = []
        before_attention = h
        for index, resnet in enumerate(self._resnets):
            h = tuple(resnet(lane, step) for lane in h)
            if index == 0:
                before_attention = h
            h = self._attend(index, h, prompts)
            skips.append(h)
        while len(skips) < self._num_skips:
            skips.insert(0, before_attention)
        return EncoderOutputs(tuple(skips), self._resampled(h))

    def decode(self, h: Lanes, skips: Sequence[Lanes], step: Step, prompts: Prompts) -> Lanes:
        """As `search_spaces.unet.DecoderStage`; `skips` are the encoder's, last first, then what entered it."""
        for index, (resnet, number) in enumerate(zip(self._resnets, self._skips, strict=True)):
            skip = skips[number]
            count = max(len(h), len(skip))
            pairs = [(h[i % len(h)], skip[i % len(skip)]) for i in range(count)]
            h = tuple(resnet(torch.cat(pair), step) for pair in pairs)
            h = self._attend(index, h, prompts)
        return self._resampled(h)

    def _attend(self, index: int, h: Lanes, prompts: Prompts) -> Lanes:
        return self._attentions[index](h, prompts) if index in self._attentions else h

    def _resampled(self, h: Lanes) -> Lanes:
        return h if self._resample is None else tuple(self._resample(lane) for lane in h)


class Head:
    """The U-Net's first convolution, and its last norm and convolution."""

    def __init__(self, library: Any, unet: Any, width: int) -> None:
        self._in, self._out = Convolution(library, unet.conv_in, width), Convolution(library, unet.conv_out, width)
        self._norm, self._call, self._width = unet.conv_norm_out, library.norm_silu, width
        self._weights = [p.detach().contiguous() for p in (self._norm.weight, self._norm.bias)]

    def enter(self, x: Tensor) -> Lanes:
        return (self._in(x),)

    def leave(self, h: Lanes) -> Lanes:
        return tuple(self._out(self._normalised(lane)) for lane in h)

    def _normalised(self, h: Tensor) -> Tensor:
        out, weights = torch.empty_like(h), [w.data_ptr() for w in self._weights]
        shape = (h.shape[0], self._norm.num_groups, self._norm.eps)
        self._call(self._width, h.data_ptr(), out.data_ptr(), *shape, *weights)
        return out


def _by_sample(x: Tensor) -> Tensor:
    """(16, tokens, channels) to (channels, tokens, 16)."""
    return x.permute(2, 1, 0).contiguous()
