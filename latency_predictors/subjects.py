"""What a calibration measures, as modules with example inputs: the base, stage options, whole U-Nets."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from latency_predictors.subject_names import BASE, option_subject
from search_spaces.candidate import Candidate
from search_spaces.surgery import assemble, build_stage

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from search_spaces.space import SearchSpace
    from search_spaces.unet import StagedUNet

__all__ = ["BASE", "Subjects", "WholeUNet", "option_subject"]

_NETWORK_INPUTS = ("sample", "timestep", "encoder_hidden_states")

Exportable = tuple[nn.Module, tuple[Tensor, ...], tuple[str, ...], tuple[str, ...]]
"""Module in eval mode, example inputs, input names, output names."""


class WholeUNet(nn.Module):
    """A U-Net with tensors only in its interface: (sample, timestep (1,), context) -> predicted noise."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        noise: Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return noise


class _Base(nn.Module):
    """Everything outside the stages: input convolution, time embedding, output norm and convolution."""

    def __init__(self, unet: StagedUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        # conv_in's channels are conv_out's, so the two ends can be joined.
        h = self.unet.conv_act(self.unet.conv_norm_out(self.unet.conv_in(sample)))
        return self.unet.conv_out(h), self.unet.embed_time(sample, timestep)


class Subjects:
    """Builds the subjects of one teacher and space, one at a time; modules share the teacher's weights."""

    def __init__(
        self, unet: UNet2DConditionModel, space: SearchSpace, latent_size: int, num_tokens: int, context_dim: int
    ) -> None:
        self.unet = unet
        self.space = space
        self._shapes = (
            (1, int(unet.conv_in.in_channels), latent_size, latent_size),
            (1, num_tokens, context_dim),
        )

    @property
    def primer(self) -> Candidate:
        """A whole U-Net of moderate size with all kinds of operators: every stage's second option."""
        second = [min(1, len(options) - 1) for options in self.space.options.values()]
        return self.space.decode(self.space.from_stage_rows(np.array([second]))[0])

    def num_params(self, stage: str, option: str) -> int:
        """Parameters of a stage option."""
        return sum(p.numel() for p in build_stage(self.unet, stage, option, copy=False).parameters())

    def build(self, name: str) -> Exportable:
        """The subject of this name: "base", "E1/RA", or a candidate's id."""
        inputs = self._network_inputs("cpu")
        if name == BASE:
            module: nn.Module = _Base(self._network(self.primer))
            return _ready(module), inputs[:2], _NETWORK_INPUTS[:2], ("noise", "time_embedding")
        if "/" in name:
            stage, option = name.split("/")
            shapes, num_outputs = self._interfaces[stage]
            generator = torch.Generator().manual_seed(0)
            return (
                _ready(build_stage(self.unet, stage, option, copy=self._on_meta)),
                tuple(torch.randn(shape, generator=generator) for shape in shapes),
                tuple([f"in{i}" for i in range(len(shapes) - 2)] + ["time_embedding", "context"]),
                tuple(f"out{i}" for i in range(num_outputs)),
            )
        candidate = Candidate.from_id(name, self.space.stages)
        return _ready(WholeUNet(self._network(candidate))), inputs, _NETWORK_INPUTS, ("noise",)

    @property
    def _on_meta(self) -> bool:
        return any(p.is_meta for p in self.unet.parameters())

    def _network(self, candidate: Candidate) -> StagedUNet:
        net = assemble(self.unet, candidate, copy=self._on_meta)
        if self._on_meta:  # the head is shared: filling it would fill the teacher's
            import copy

            net = copy.deepcopy(net)
        return net

    def _network_inputs(self, device: str) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        sample, context = (torch.randn(shape, generator=generator) for shape in self._shapes)
        return sample.to(device), torch.ones(1, dtype=torch.int64, device=device), context.to(device)

    @cached_property
    def _interfaces(self) -> dict[str, tuple[list[torch.Size], int]]:
        """Per stage the shapes of its inputs and the number of its outputs, from one pass on the teacher's device."""
        record: dict[str, object] = {}
        with torch.no_grad():
            assemble(self.unet, self.primer, copy=False)(*self._network_inputs(str(self.unet.device)), record=record)
        return {
            stage: ([t.shape for t in io.inputs], len(io.outputs))  # type: ignore[attr-defined]
            for stage, io in record.items()
        }


def _ready(module: nn.Module) -> nn.Module:
    """In eval mode, on the processor; meta weights become small random ones."""
    if any(p.is_meta for p in module.parameters()):
        module = module.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0.0, 0.02, generator=generator)
    return module.eval()
