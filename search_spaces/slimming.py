"""Slimmer layers with inherited weights: fewer hidden channels, units and heads, separable convolutions.

What a layer takes and gives never changes. Kept parts are those of greatest importance
(`search_spaces.importance`), and the expected part of what is dropped moves into a bias where that brings
the output closer. Submodules that stay whole are shared with the given block. How close the output comes:
``python -m experiments.bench.width_surgery``.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Any, TypeVar

import torch
from diffusers.models.attention import BasicTransformerBlock, FeedForward
from diffusers.models.attention_processor import Attention as AttentionLayer
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from search_spaces.errors import UserError
from search_spaces.importance import HiddenChannels, best_parts, gated_moments, head_energies, mean_self_attention
from search_spaces.layers import (
    SeparableConv2d,
    TransformerLayer,
    add_bias,
    depthwise_conv2d,
    draw_new_weights,
    pointwise_conv2d,
    shallow,
    take_channels,
    take_inputs,
    take_outputs,
    with_weights,
)
from search_spaces.stage_option import Attention, Conv, Internals

M = TypeVar("M", bound=nn.Module)


class Selection(Enum):
    """How the weights of a slimmed layer are made; all but the first are there to compare with."""

    IMPORTANCE = "importance"
    """The parts of greatest importance, the mean of the others moved into a bias."""
    MAGNITUDE = "magnitude"
    """The parts with the largest product of the norms of the weights that make and that read them, nothing moved."""
    FIRST = "first"
    """The first parts, nothing moved."""
    RANDOM = "random"
    """Freshly initialised layers where something was cut; what stays whole is the teacher's."""


def slim_resnet(
    block: ResnetBlock2D,
    internals: Internals,
    selection: Selection = Selection.IMPORTANCE,
    temb: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> ResnetBlock2D:
    """A ResNet block with fewer hidden channels, separable convolutions, or both.

    Each group of the norm between the convolutions keeps as many channels as the others, and the norm's
    weights make up for what the dropped ones did to the group's mean and variance. With nothing to change,
    the given block itself.

    Args:
        block: (B, C_in, H, W) and time embedding to (B, C_out, H, W), on any device including ``meta``.
        internals: ``resnet_width`` and ``conv`` are read.
        temb: time embeddings (T, D) of timesteps spread over the schedule, which tell importance better.
        generator: on the CPU, of ``Selection.RANDOM``; ``None``: a new one of seed 0.

    Raises:
        UserError: a width that the groups do not divide.
    """
    slim = block
    groups, num_hidden = block.norm2.num_groups, block.conv1.out_channels
    num_kept = kept_parts("resnet_width", internals.resnet_width, num_hidden, groups)
    if num_kept < num_hidden:
        per_group = (groups, num_hidden // groups)
        if _ranks(selection, block):
            hidden = HiddenChannels.of(block, temb)
            mean, variance = hidden.activated(block.nonlinearity)
            weight = block.conv2.weight.detach().double()
            scores = variance * weight.square().sum((0, 2, 3))
            keep, dropped = best_parts(scores.view(per_group), num_kept // groups)
            norm2 = with_weights(take_channels(block.norm2, keep), *hidden.norm_of(keep))
            conv2 = add_bias(take_inputs(block.conv2, keep), weight[:, dropped].sum((2, 3)) @ mean[dropped])
        else:
            scores = _plain_scores(selection, block.conv1.weight, block.conv2.weight.transpose(0, 1))
            keep, _ = best_parts(scores.view(per_group), num_kept // groups)
            norm2, conv2 = take_channels(block.norm2, keep), take_inputs(block.conv2, keep)
        slim = shallow(
            block,
            conv1=take_outputs(block.conv1, keep),
            time_emb_proj=take_outputs(block.time_emb_proj, keep),
            norm2=norm2,
            conv2=conv2,
        )
    if internals.conv is Conv.SEPARABLE:
        slim = shallow(slim, conv1=_separable(slim.conv1), conv2=_separable(slim.conv2))
    return _initialised(slim, block, selection, generator)


def _separable(conv: nn.Conv2d) -> SeparableConv2d:
    """The depthwise-separable convolution nearest to a convolution in the Frobenius norm.

    The kernels (C_out, k, k) of each input channel are one matrix (C_out, k k); its best rank-1
    approximation is the channel's spatial filter times the channel's pointwise weights (Eckart-Young).
    """
    out_channels, in_channels, height, width = conv.weight.shape
    kernels = conv.weight.detach().double().permute(1, 0, 2, 3).reshape(in_channels, out_channels, height * width)
    # The leading right singular vector, as the leading eigenvector of a matrix as small as a kernel.
    filters = torch.linalg.eigh(kernels.transpose(1, 2) @ kernels).eigenvectors[..., -1]
    mixed = (kernels @ filters[..., None]).transpose(0, 1)
    assert conv.bias is not None
    return SeparableConv2d(
        depthwise_conv2d(conv, filters.view(in_channels, 1, height, width)),
        pointwise_conv2d(conv, mixed[..., None], conv.bias),
    )


def slim_attention(
    block: Transformer2DModel,
    internals: Internals,
    selection: Selection = Selection.IMPORTANCE,
    generator: torch.Generator | None = None,
) -> Transformer2DModel:
    """A transformer block with fewer feed-forward units, fewer heads, or one kind of attention only.

    With nothing to change, the given block itself.

    Args:
        block: (B, C, H, W) and text context to (B, C, H, W), on any device including ``meta``.
        internals: ``ff_width``, ``heads`` and ``attention`` are read.
        generator: as for :func:`slim_resnet`.

    Raises:
        UserError: a share that leaves no whole number of units or heads.
    """
    if replace(internals, resnet_width=1.0, conv=Conv.FULL).is_teachers:
        return block
    proj_in = block.proj_in
    layers: list[Any] = []
    for layer in block.transformer_blocks:
        if internals.attention is Attention.CROSS and _ranks(selection, block):
            # The mean of what self-attention would add joins what was added before it.
            moved = mean_self_attention(layer.attn1, layer.norm1)
            if layers:
                layers[-1] = shallow(layers[-1], ff=shallow(layers[-1].ff, net=_more(layers[-1].ff.net, -1, moved)))
            else:
                proj_in = add_bias(proj_in, moved)
        layers.append(_slim_layer(layer, internals, selection))
    slim = shallow(block, proj_in=proj_in, transformer_blocks=nn.ModuleList(layers))
    return _initialised(slim, block, selection, generator)


def _slim_layer(layer: BasicTransformerBlock, internals: Internals, selection: Selection) -> nn.Module:
    slim = shallow(
        layer,
        attn1=_slim_heads(layer.attn1, layer.norm1, internals.heads, selection),
        attn2=_slim_heads(layer.attn2, layer.norm2, internals.heads, selection),
        ff=_slim_feed_forward(layer.ff, layer.norm3, internals.ff_width, selection),
    )
    if internals.attention is Attention.BOTH:
        return slim
    if internals.attention is Attention.SELF and _ranks(selection, layer):
        # Of what cross-attention would add, the part that does not depend on the text.
        slim.attn1 = shallow(slim.attn1, to_out=_more(slim.attn1.to_out, 0, slim.attn2.to_out[0].bias.detach()))
    return TransformerLayer(
        slim,
        self_attention=internals.attention is Attention.SELF,
        cross_attention=internals.attention is Attention.CROSS,
    )


def _slim_heads(attention: AttentionLayer, norm: nn.LayerNorm, ratio: float, selection: Selection) -> AttentionLayer:
    num_kept = kept_parts("heads", ratio, attention.heads, 1)
    if num_kept == attention.heads:
        return attention
    size = attention.inner_dim // attention.heads
    if _ranks(selection, attention):
        scores = head_energies(attention, norm)
    else:
        values, read = (weight.unflatten(0, (attention.heads, size)) for weight in
                        (attention.to_v.weight, attention.to_out[0].weight.T))  # fmt: skip
        scores = _plain_scores(selection, values, read)
    keep, _ = best_parts(scores[None], num_kept)
    rows = (keep[:, None] * size + torch.arange(size, device=keep.device)).flatten()
    return shallow(
        attention,
        to_q=take_outputs(attention.to_q, rows),
        to_k=take_outputs(attention.to_k, rows),
        to_v=take_outputs(attention.to_v, rows),
        to_out=nn.ModuleList([take_inputs(attention.to_out[0], rows), *attention.to_out[1:]]),
        heads=num_kept,
        sliceable_head_dim=num_kept,
        inner_dim=len(rows),
        inner_kv_dim=len(rows),
    )


def _slim_feed_forward(ff: FeedForward, norm: nn.LayerNorm, ratio: float, selection: Selection) -> FeedForward:
    gated, *between, last = ff.net
    num_hidden = last.in_features
    num_kept = kept_parts("ff_width", ratio, num_hidden, 1)
    if num_kept == num_hidden:
        return ff
    moved = None
    if _ranks(selection, ff):
        mean, variance = gated_moments(norm, gated.proj)
        weight = last.weight.detach().double()
        keep, dropped = best_parts((variance * weight.square().sum(0))[None], num_kept)
        moved = weight[:, dropped] @ mean[dropped]
    else:
        scores = _plain_scores(selection, gated.proj.weight[:num_hidden], last.weight.T)
        keep, _ = best_parts(scores[None], num_kept)
    # GEGLU's projection gives the values of all units, then their gates.
    proj = take_outputs(gated.proj, torch.cat([keep, keep + num_hidden]))
    last = take_inputs(last, keep)
    net = [shallow(gated, proj=proj), *between, last if moved is None else add_bias(last, moved)]
    return shallow(ff, net=nn.ModuleList(net))


def slim_layers(
    stage: Any,
    internals: Internals,
    selection: Selection = Selection.IMPORTANCE,
    temb: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> None:
    """Slim every layer of a stage, or of a middle block, in place: its lists of layers change, not the layers given.

    Args:
        stage: a module with ``resnets`` (a list) and ``attentions`` (a list or a dictionary) of its own.
        internals, selection, temb, generator: as for :func:`slim_resnet` and :func:`slim_attention`.
    """
    attentions = stage.attentions
    keys = attentions.keys() if isinstance(attentions, nn.ModuleDict) else range(len(attentions))
    for index, resnet in enumerate(stage.resnets):
        stage.resnets[index] = slim_resnet(resnet, internals, selection, temb, generator)
    for key in list(keys):
        attentions[key] = slim_attention(attentions[key], internals, selection, generator)


def kept_parts(decision: str, ratio: float, total: int, groups: int) -> int:
    """How many of ``total`` parts a ratio keeps, the same number in each of the groups.

    A ratio is legal as its text: the six digits that name k / n (0.333333 of 96 is 32).

    Raises:
        UserError: no such whole number; names the decision, what it leaves and the legal ratios.
    """
    steps = total // groups
    kept = round(ratio * steps)
    if kept < 1 or f"{kept / steps:g}" != f"{ratio:g}":
        parts = {"resnet_width": "hidden channels", "ff_width": "hidden units", "heads": "attention heads"}[decision]
        why = f", which {groups} groups do not divide" if groups > 1 else ", no whole number"
        raise UserError(
            f"{decision} {ratio:g} leaves {ratio * total:g} of {total} {parts}{why}; legal are {_legal(steps)}"
        )
    return kept * groups


def _legal(steps: int) -> str:
    ratios = [f"{k / steps:g}" for k in range(1, steps + 1)]
    return ", ".join(ratios if steps <= 10 else [*ratios[:3], "...", "1"]) + (f" (k/{steps})" if steps > 10 else "")


def _ranks(selection: Selection, module: nn.Module) -> bool:
    """Whether importance decides: there is none to compute on the meta device, where the first parts stand for all."""
    return selection is Selection.IMPORTANCE and not next(module.parameters()).is_meta


def _plain_scores(selection: Selection, made_by: Tensor, read_by: Tensor) -> Tensor:
    """Scores (parts,) without a model of the data: equal ones, or magnitudes of the weights of each part.

    Args:
        selection: ``MAGNITUDE``, or any other for equal scores.
        made_by, read_by: weights (parts, ...) that make each part, and that read it.
    """
    if selection is not Selection.MAGNITUDE or made_by.is_meta:
        return torch.zeros(len(made_by), device=made_by.device)
    return made_by.detach().flatten(1).norm(dim=1) * read_by.detach().flatten(1).norm(dim=1)


def _more(layers: Any, index: int, bias: Tensor) -> nn.ModuleList:
    """The same list of layers, the one at ``index`` with another bias on its outputs."""
    new = list(layers)
    new[index] = add_bias(new[index], bias)
    return nn.ModuleList(new)


def _initialised(slim: M, block: M, selection: Selection, generator: torch.Generator | None) -> M:
    """Layers that are not the block's own set to PyTorch's initial values, if selection is random."""
    if selection is Selection.RANDOM:
        draw_new_weights(slim, block, generator or torch.Generator().manual_seed(0))
    return slim
