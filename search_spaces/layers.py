"""Layers that diffusers does not have, and layers made of given weights."""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class SeparableConv2d(nn.Module):
    """A depthwise convolution (spatial, one filter a channel), then a pointwise one (1x1, across channels).

    (B, C_in, H, W) to (B, C_out, H, W). Source: Chollet, Xception (arXiv 1610.02357).
    """

    def __init__(self, depthwise: nn.Conv2d, pointwise: nn.Conv2d) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.pointwise = pointwise

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class TransformerLayer(nn.Module):
    """A ``BasicTransformerBlock`` that lacks its self-attention or its cross-attention.

    Called as diffusers calls ``BasicTransformerBlock``: hidden states (B, L, C) to (B, L, C). Names of
    parameters are those of the whole block.

    Args:
        block: the whole block, whose remaining modules are used as they are.
        self_attention, cross_attention: which attentions stay.
    """

    def __init__(self, block: BasicTransformerBlock, self_attention: bool, cross_attention: bool) -> None:
        super().__init__()
        self.norm1: Any = block.norm1 if self_attention else None
        self.attn1: Any = block.attn1 if self_attention else None
        self.norm2: Any = block.norm2 if cross_attention else None
        self.attn2: Any = block.attn2 if cross_attention else None
        self.norm3 = block.norm3
        self.ff = block.ff
        self.train(block.training)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
    ) -> Tensor:
        kwargs = cross_attention_kwargs or {}
        h = hidden_states
        if self.attn1 is not None:
            h = self.attn1(self.norm1(h), attention_mask=attention_mask, **kwargs) + h
        if self.attn2 is not None:
            h = h + self.attn2(
                self.norm2(h),
                encoder_hidden_states=encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                **kwargs,
            )
        return self.ff(self.norm3(h)) + h


def shallow(module: M, **attributes: Any) -> M:
    """A module of the same kind with the same submodules, some attributes replaced; the given one stays as it is."""
    twin = copy.copy(module)
    for table in ("_modules", "_parameters", "_buffers"):
        twin.__dict__[table] = dict(module.__dict__[table])
    for name, value in attributes.items():
        setattr(twin, name, value)
    return twin


def take_outputs(layer: M, keep: Tensor) -> M:
    """The same linear layer or convolution with the given outputs only, in the given order."""
    given: Any = layer
    return _rebuilt(layer, given.weight[keep], None if given.bias is None else given.bias[keep])


def take_inputs(layer: M, keep: Tensor) -> M:
    """The same linear layer or convolution with the given inputs only, in the given order."""
    given: Any = layer
    return _rebuilt(layer, given.weight[:, keep], given.bias)


def take_channels(norm: nn.GroupNorm, keep: Tensor) -> nn.GroupNorm:
    """The same group norm, with as many groups, over the given channels only."""
    return _rebuilt(norm, norm.weight[keep], norm.bias[keep])


def with_weights(layer: M, weight: Tensor, bias: Tensor) -> M:
    """The same layer with other weights of the same shapes."""
    return _rebuilt(layer, weight, bias)


def add_bias(layer: M, more: Tensor) -> M:
    """The same layer with another number on each of its outputs; ``more`` is (out,)."""
    bias: Any = layer.bias
    return shallow(layer, bias=_parameter(bias, (bias.detach().to(more.dtype) + more).to(bias.dtype)))


def depthwise_conv2d(like: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """A convolution (C, 1, k, k) of each channel by itself, with the stride and padding of the given one, no bias."""
    layer = nn.Conv2d(1, 1, 1, stride=like.stride, padding=like.padding, bias=False, device="meta")  # type: ignore[arg-type]
    layer.in_channels = layer.out_channels = layer.groups = len(weight)
    layer.kernel_size = like.kernel_size
    layer.weight = _parameter(like.weight, weight)
    return layer.train(like.training)


def pointwise_conv2d(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1x1 convolution with weight (C_out, C_in, 1, 1) and bias (C_out,)."""
    layer = nn.Conv2d(1, 1, 1, device="meta")
    layer.out_channels, layer.in_channels = weight.shape[:2]
    layer.weight, layer.bias = _parameter(like.weight, weight), _parameter(like.weight, bias)
    return layer.train(like.training)


def draw_weights(layer: nn.Linear | nn.Conv2d, generator: torch.Generator) -> None:
    """Fill a layer with torch's own default distribution, on the CPU and moved; nothing on ``meta``.

    Args:
        generator: one of the CPU, so that all devices get the same weights.
    """
    if layer.weight.is_meta:
        return
    bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    for parameter in layer.parameters():
        parameter.data.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def draw_new_weights(module: nn.Module, given: nn.Module, generator: torch.Generator) -> None:
    """Set the layers of a module that another one does not have to torch's initial values."""
    inherited = {id(layer) for layer in given.modules()}
    for layer in module.modules():
        if id(layer) in inherited:
            continue
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            draw_weights(layer, generator)
        elif isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
            layer.reset_parameters()


_NUM_OUTPUTS = {nn.Linear: "out_features", nn.Conv2d: "out_channels", nn.GroupNorm: "num_channels"}
_NUM_INPUTS = {nn.Linear: "in_features", nn.Conv2d: "in_channels"}


def _rebuilt(layer: M, weight: Tensor, bias: Tensor | None) -> M:
    kind = type(layer)
    sizes: dict[str, int] = {_NUM_OUTPUTS[kind]: weight.shape[0]}
    if kind in _NUM_INPUTS:
        sizes[_NUM_INPUTS[kind]] = weight.shape[1]
    like: Any = layer.weight
    new_bias = None if bias is None else _parameter(like, bias)
    return shallow(layer, weight=_parameter(like, weight), bias=new_bias, **sizes)


def _parameter(like: nn.Parameter | Tensor, data: Tensor) -> nn.Parameter:
    # Contiguous, so that a network computes the same bits once it is saved and loaded.
    contiguous = data.detach().to(like.dtype).clone(memory_format=torch.contiguous_format)
    return nn.Parameter(contiguous, requires_grad=like.requires_grad)
