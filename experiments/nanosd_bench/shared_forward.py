"""Stages of a staged U-Net as functions, for many networks that share stages: the same values, computed once.

Three things are shared that a plain forward pass computes anew; none changes a value beyond rounding:

- With classifier-free guidance a network sees every sample twice, without and with the prompt. Up to the first
  cross-attention both are the same tensor, so they stay one (`narrow`, N rows) and are doubled (`wide`, 2 N rows)
  where the prompt comes in.
- Keys and values of cross-attention depend on the prompts and the block's weights, not on the sample or the step.
- The time embedding is the same for all samples of a sampling step; its projection joins the convolution's bias.

Tensors are channels-last inside, where transformer blocks and convolutions need no copies of each other's layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class EncoderOutputs(NamedTuple):
    """Skips of an encoder stage, first layer first, and what enters the next stage."""

    skips: tuple[Tensor, ...]
    h: Tensor


class Prompts:
    """Text context (rows, tokens, D), with what every attention block makes of it, computed once a block.

    With guidance the rows are the empty prompt of every sample, then their prompts: twice as many as samples.
    """

    def __init__(self, context: Tensor) -> None:
        self.context = context
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def wide(self, h: Tensor) -> Tensor:
        """`h` with one row a prompt."""
        return h if len(h) == len(self.context) else torch.cat([h, h])

    def keys_values(self, attention: Any) -> tuple[Tensor, Tensor]:
        """Keys and values (rows, heads, tokens, d) of a cross-attention module."""
        found = self._known.get(id(attention))
        if found is None:
            found = tuple(_heads(F.linear(self.context, m.weight), attention.heads) for m in (attention.to_k, attention.to_v))
            self._known[id(attention)] = found
        return found


class Step:
    """Time embedding (1 or rows, D), with what every residual block makes of it, computed once a block."""

    def __init__(self, embedding: Tensor) -> None:
        self._activated = F.silu(embedding)
        self._known: dict[int, Tensor] = {}

    def projected(self, resnet: Any) -> Tensor:
        """What a residual block adds: (C,), its first convolution's bias included, or (rows, C) without that."""
        found = self._known.get(id(resnet))
        if found is None:
            found = resnet.time_emb_proj(self._activated)
            if len(found) == 1:
                found = found[0] + resnet.conv1.bias
            self._known[id(resnet)] = found
        return found


def residual(block: Any, h: Tensor, step: Step) -> Tensor:
    """Diffusers' ResnetBlock2D of a Stable Diffusion U-Net."""
    x = F.silu(block.norm1(h), inplace=True)
    time = step.projected(block)
    if time.ndim == 1:
        x = F.conv2d(x, block.conv1.weight, time, padding=1)
    else:
        x = block.conv1(x) + time[:, :, None, None]
    x = block.conv2(F.silu(block.norm2(x), inplace=True))
    return x + (h if block.conv_shortcut is None else block.conv_shortcut(h))


def transformer(block: Any, h: Tensor, prompts: Prompts) -> Tensor:
    """Diffusers' Transformer2DModel of a Stable Diffusion U-Net; narrow or wide in, wide out."""
    count, channels, height, width = h.shape
    x = block.norm(h).permute(0, 2, 3, 1).reshape(count, height * width, channels)
    x = F.linear(x, _matrix(block.proj_in), block.proj_in.bias)
    for layer in block.transformer_blocks:
        own = layer.attn1
        y = layer.norm1(x)
        q, k, v = (_heads(F.linear(y, m.weight), own.heads) for m in (own.to_q, own.to_k, own.to_v))
        x = prompts.wide(x + _attended(own, q, k, v))
        cross = layer.attn2
        q = _heads(F.linear(layer.norm2(x), cross.to_q.weight), cross.heads)
        x = x + _attended(cross, q, *prompts.keys_values(cross))
        y, gate = layer.ff.net[0].proj(layer.norm3(x)).chunk(2, dim=-1)
        x = x + layer.ff.net[2](y * F.gelu(gate))
    x = F.linear(x, _matrix(block.proj_out), block.proj_out.bias)
    return x.reshape(len(x), height, width, channels).permute(0, 3, 1, 2) + prompts.wide(h)


def encoder(stage: Any, h: Tensor, step: Step, prompts: Prompts) -> EncoderOutputs:
    """As EncoderStage; the last encoder's `h` is its last skip."""
    skips: list[Tensor] = []
    before_attention = h
    for index, block in enumerate(stage.resnets):
        h = residual(block, h, step)
        if index == 0:
            before_attention = h
        h = _attend(stage, index, h, prompts)
        skips.append(h)
    while len(skips) < stage.num_skips:
        skips.insert(0, before_attention)
    return EncoderOutputs(tuple(skips), h if stage.downsampler is None else stage.downsampler(h))


def decoder(stage: Any, h: Tensor, skips: Sequence[Tensor], step: Step, prompts: Prompts) -> Tensor:
    """As DecoderStage, for sizes that double; `skips` as it takes them: the encoder's last first, its input last."""
    for index, (block, number) in enumerate(zip(stage.resnets, stage.skips, strict=True)):
        skip = skips[number]
        if len(skip) != len(h):
            h, skip = prompts.wide(h), prompts.wide(skip)
        h = residual(block, torch.cat([h, skip], dim=1), step)
        h = _attend(stage, index, h, prompts)
    if stage.upsampler is None:
        return h
    return stage.upsampler.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))


def head_in(unet: Any, x: Tensor) -> Tensor:
    """What enters the first stage, channels-last."""
    return unet.conv_in(x.contiguous(memory_format=torch.channels_last))


def head_out(unet: Any, h: Tensor) -> Tensor:
    """The noise prediction."""
    return unet.conv_out(F.silu(unet.conv_norm_out(h), inplace=True))


def _attend(stage: Any, index: int, h: Tensor, prompts: Prompts) -> Tensor:
    key = str(index)
    return transformer(stage.attentions[key], h, prompts) if key in stage.attentions else h


def _heads(x: Tensor, heads: int) -> Tensor:
    """(rows, tokens, heads * d) to (rows, heads, tokens, d)."""
    return x.view(len(x), -1, heads, x.shape[-1] // heads).transpose(1, 2)


def _attended(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(q), q.shape[2], -1)
    return attention.to_out[0](x)


def _matrix(convolution: Any) -> Tensor:
    """Weights of a 1x1 convolution as a matrix."""
    return convolution.weight[:, :, 0, 0]
