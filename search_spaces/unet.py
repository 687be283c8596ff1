"""The staged U-Net: a Stable Diffusion U-Net cut at the interfaces that options must keep.

Every stage maps tensors of fixed shapes to tensors of fixed shapes, whatever its option:

====== ===================================================================== =========================
stage  reads                                                                  gives
====== ===================================================================== =========================
E_i    h, time embedding, text context                                       its skips, downsampled h
deep   last encoder output, time embedding, text context                     first decoder input
D_i    h, skips of E_i last to first, E_(i-1)'s downsampled h (or conv_in)    upsampled h
====== ===================================================================== =========================

The last kept encoder stage has no downsampler: that belongs to ``deep``, which may be dropped. An
encoder word with fewer layers than the teacher gives the output of its first R as first skip
(Source: NanoSD, arXiv 2601.09823, "shape-preserving variants"; interface re-derived).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from torch import Tensor, nn

from search_spaces.candidate import Candidate
from search_spaces.conditioning import embed_added, head_modules
from search_spaces.errors import UserError

UNet: TypeAlias = Any
"""A ``UNet2DConditionModel``, whose configuration and blocks diffusers leaves untyped."""


class StageIO(NamedTuple):
    """What went into a stage and came out of it in one forward pass."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


class _Layers(nn.Module):
    """Residual blocks, each followed by a transformer block or not."""

    def __init__(self, resnets: list[nn.Module], attentions: list[nn.Module | None]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleDict({str(i): a for i, a in enumerate(attentions) if a is not None})

    def attend(self, index: int, h: Tensor, context: Tensor) -> Tensor:
        """Transformer block after residual block ``index``; the identity where there is none."""
        key = str(index)
        if key not in self.attentions:
            return h
        return self.attentions[key](h, encoder_hidden_states=context, return_dict=False)[0]


class EncoderStage(_Layers):
    """Encoder stage: (B, C_in, H, W) to ``num_skips`` skips (B, C, H, W) and the downsampled h.

    Without a downsampler only the skips are given and the last of them is the stage's output.
    """

    def __init__(
        self,
        resnets: list[nn.Module],
        attentions: list[nn.Module | None],
        downsampler: nn.Module | None,
        num_skips: int,
    ) -> None:
        super().__init__(resnets, attentions)
        self.downsampler = downsampler
        self.num_skips = num_skips

    def forward(self, h: Tensor, temb: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        skips: list[Tensor] = []
        before_attention = h
        for index, resnet in enumerate(self.resnets):
            h = resnet(h, temb)
            if index == 0:
                before_attention = h
            h = self.attend(index, h, context)
            skips.append(h)
        while len(skips) < self.num_skips:
            skips.insert(0, before_attention)
        return tuple(skips) if self.downsampler is None else (*skips, self.downsampler(h))


class DecoderStage(_Layers):
    """Decoder stage: h (B, C_in, H, W) and its skips to one tensor, upsampled unless it is the last.

    ``output_size`` (height, width) is needed only where the next stage's size is not exactly double.
    """

    def __init__(
        self,
        resnets: list[nn.Module],
        attentions: list[nn.Module | None],
        upsampler: nn.Module | None,
        skips: tuple[int, ...],
    ) -> None:
        super().__init__(resnets, attentions)
        self.upsampler = upsampler
        self.skips = skips

    def forward(self, h: Tensor, *inputs: Tensor, output_size: tuple[int, int] | None = None) -> tuple[Tensor]:
        *skips, temb, context = inputs
        for index, (resnet, skip) in enumerate(zip(self.resnets, self.skips, strict=True)):
            h = resnet(torch.cat([h, skips[skip]], dim=1), temb)
            h = self.attend(index, h, context)
        if self.upsampler is not None:
            h = self.upsampler(h, output_size)
        return (h,)


class DeepStage(nn.Module):
    """Downsampler, deepest encoder stage, middle block and deepest decoder stage as one path.

    (B, C, H, W) in, (B, C, H, W) out.
    """

    def __init__(
        self, downsampler: nn.Module, encoder: EncoderStage, mid: nn.Module | None, decoder: DecoderStage
    ) -> None:
        super().__init__()
        self.downsampler = downsampler
        self.encoder = encoder
        self.mid = mid
        self.decoder = decoder

    def forward(self, h: Tensor, temb: Tensor, context: Tensor) -> tuple[Tensor]:
        size = (h.shape[-2], h.shape[-1])
        down = self.downsampler(h)
        skips = self.encoder(down, temb, context)
        h = skips[-1]
        if self.mid is not None:
            h = self.mid(h, temb, encoder_hidden_states=context)
        output_size = None if size == (2 * h.shape[-2], 2 * h.shape[-1]) else size
        return self.decoder(h, *reversed(skips), down, temb, context, output_size=output_size)


class DroppedStage(nn.Module):
    """``deep`` dropped: the last encoder output goes on to the first decoder stage as it is."""

    def forward(self, h: Tensor, temb: Tensor, context: Tensor) -> tuple[Tensor]:
        return (h,)


def _in_order(options: Mapping[str, str]) -> dict[str, str]:
    """Options in the order of the data: diffusers sorts the keys of a saved configuration by name."""
    levels = range(1, len(options) // 2 + 1)
    stages = (*(f"E{i}" for i in levels), "deep", *(f"D{i}" for i in reversed(levels)))
    return {stage: options[stage] for stage in stages}


class StagedUNet(ModelMixin, ConfigMixin):
    """A candidate's U-Net: the teacher's head (input, time embedding, output) and one module per stage.

    It takes and gives what ``UNet2DConditionModel`` does, so diffusers pipelines run it unchanged, and
    ``save_pretrained`` / ``from_pretrained`` work as for any diffusers model.

    Args:
        teacher_config: configuration of the teacher's ``UNet2DConditionModel``.
        options: option name per stage, as in :class:`~search_spaces.candidate.Candidate`.
        sample_size, in_channels, out_channels, time_cond_proj_dim, addition_time_embed_dim: as in the
            teacher's configuration; diffusers pipelines read them here.
    """

    @register_to_config
    def __init__(
        self,
        teacher_config: dict[str, Any],
        options: dict[str, str],
        sample_size: int | None = None,
        in_channels: int = 4,
        out_channels: int = 4,
        time_cond_proj_dim: int | None = None,
        addition_time_embed_dim: int | None = None,
    ) -> None:
        super().__init__()
        from search_spaces.surgery import build_stage

        unet = UNet2DConditionModel.from_config(teacher_config)
        words = _in_order(options)
        self._install(unet, {stage: build_stage(unet, stage, name, copy=False) for stage, name in words.items()})

    @classmethod
    def from_parts(cls, unet: UNet, candidate: Candidate, stages: Mapping[str, nn.Module]) -> StagedUNet:
        """Put stage modules and the teacher's head together without building anything anew."""
        net = cls.__new__(cls)
        ModelMixin.__init__(net)
        config = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        net.register_to_config(
            teacher_config=config,
            options=dict(candidate.options),
            sample_size=unet.config.sample_size,
            in_channels=unet.config.in_channels,
            out_channels=unet.config.out_channels,
            time_cond_proj_dim=unet.config.time_cond_proj_dim,
            addition_time_embed_dim=unet.config.addition_time_embed_dim,
        )
        net._install(unet, stages)
        return net

    def _install(self, unet: UNet, stages: Mapping[str, nn.Module]) -> None:
        for name in head_modules(unet):
            setattr(self, name, getattr(unet, name))
        self.stages = nn.ModuleDict(dict(stages))

    @property
    def candidate(self) -> Candidate:
        """The candidate that this network implements."""
        config: Any = self.config
        return Candidate(options=_in_order(config.options))

    def embed_time(self, sample: Tensor, timestep: Tensor | float | int) -> Tensor:
        """Time embedding (B, D) for one timestep or one per sample."""
        if not torch.is_tensor(timestep):
            timestep = torch.tensor([timestep], dtype=torch.float64 if isinstance(timestep, float) else torch.int64)
        timestep = timestep.to(sample.device)
        timesteps = (timestep[None] if timestep.ndim == 0 else timestep).expand(sample.shape[0])
        return self.time_embedding(self.time_proj(timesteps).to(dtype=sample.dtype))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        timestep_cond: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, Tensor] | None = None,
        return_dict: bool = True,
        record: dict[str, StageIO] | None = None,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predicted noise.

        Args:
            sample: noisy latents (B, C, H, W).
            timestep: one timestep or (B,).
            encoder_hidden_states: text embeddings (B, tokens, D).
            added_cond_kwargs: for SDXL ``text_embeds`` (B, D) and ``time_ids`` (B, 6); for others nothing.
            record: filled with every stage's inputs and outputs when given.

        Raises:
            UserError: conditioning that this U-Net does not take, or that it lacks.
        """
        if timestep_cond is not None or cross_attention_kwargs:
            raise UserError("a staged U-Net takes no timestep_cond and no cross_attention_kwargs; drop them")
        temb = self.embed_time(sample, timestep)
        if (added := embed_added(self, added_cond_kwargs, temb.dtype)) is not None:
            temb = temb + added
        context = encoder_hidden_states
        h = self.conv_in(sample)
        entering: list[Tensor] = []
        skips: dict[str, tuple[Tensor, ...]] = {}

        def run(stage: str, *inputs: Tensor, **kwargs: Any) -> tuple[Tensor, ...]:
            outputs: tuple[Tensor, ...] = self.stages[stage](*inputs, temb, context, **kwargs)
            if record is not None:
                record[stage] = StageIO((*inputs, temb, context), outputs)
            return outputs

        encoders = [stage for stage in self.stages if stage.startswith("E")]
        for stage in encoders:
            entering.append(h)
            outputs = run(stage, h)
            h = outputs[-1]
            skips[stage] = outputs if self.stages[stage].downsampler is None else outputs[:-1]
        (h,) = run("deep", h)
        for number in range(len(encoders), 0, -1):
            own = skips[f"E{number}"]
            output_size = None
            if number > 1:
                size = skips[f"E{number - 1}"][0].shape[-2:]
                if tuple(size) != (2 * h.shape[-2], 2 * h.shape[-1]):
                    output_size = (int(size[0]), int(size[1]))
            (h,) = run(f"D{number}", h, *reversed(own), entering[number - 1], output_size=output_size)
        h = self.conv_out(self.conv_act(self.conv_norm_out(h)))
        return UNet2DConditionOutput(sample=h) if return_dict else (h,)
