"""VAEs of candidates: each half the teacher's own or a tiny ResNet, behind ``AutoencoderKL``'s interface."""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

# diffusers loads a pipeline's part from a module of another library only if it finds this name in that module.
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.vae_layers import Make, TeacherDecoder, TeacherEncoder, TinyDecoder, TinyEncoder, initialise, made
from search_spaces.vae_option import (
    STEPS,
    TEACHER,
    VAE_DECODER,
    VAE_ENCODER,
    VAE_STAGES,
    TinyLevel,
    VaeOption,
    parse_steps,
    parse_vae_option,
)

VAE: TypeAlias = Any
"""An ``AutoencoderKL``, whose configuration and modules diffusers leaves untyped."""


def check_vae_supported(vae: VAE) -> None:
    """Raise unless the VAE is one whose halves can be exchanged.

    Raises:
        UserError: another class than ``AutoencoderKL``, or latents that are shifted, or scaled by channel.
    """
    if type(vae) is not AutoencoderKL:
        raise UserError(f"unsupported teacher: its VAE is {type(vae).__name__}; legal is AutoencoderKL")
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if vae.config.get(key) is not None:
            raise UserError(
                f"unsupported teacher: {key} of its VAE is {vae.config[key]}; legal is null, "
                "as in Stable Diffusion, whose latents are only multiplied by scaling_factor"
            )


def num_vae_levels(vae: VAE) -> int:
    """Levels of the VAE, full resolution and latents included: 4 for SD 1.5."""
    return len(vae.config.block_out_channels)


def parse_option(vae: VAE, stage: str, name: str) -> VaeOption:
    """Parse an option of ``VE`` or ``VD`` against this teacher.

    Raises:
        UserError: another stage, or an option that this VAE's interface does not allow.
    """
    if stage not in VAE_STAGES:
        raise UserError(f"stage {stage!r} is none of the VAE's; legal are {', '.join(VAE_STAGES)}")
    return parse_vae_option(stage, name, num_vae_levels(vae))


def build_vae_stage(vae: VAE, stage: str, name: str, copy: bool = True, seed: int = 0) -> nn.Module:
    """One half of the VAE in the given option.

    Args:
        vae: the teacher's ``AutoencoderKL``, on any device including ``meta``.
        stage: ``VE``: images (B, 3, H, W) in [-1, 1] to moments (B, 2C, h, w), mean then log-variance;
            ``VD``: latents (B, C, h, w) to images (B, 3, 2^(L-1) h, 2^(L-1) w), for L levels.
        name: option name.
        copy: deep copies of the teacher's modules; ``False`` shares them (for inference only).
        seed: of a tiny ResNet's weights, which have no counterpart in the teacher to inherit from.

    Returns:
        The module, in the teacher's precision, on its device and in its mode.

    Raises:
        UserError: a VAE that cannot be taken apart, an unknown stage or option.
    """
    check_vae_supported(vae)
    levels = parse_option(vae, stage, name).levels
    module: nn.Module
    if levels is None:
        if stage == VAE_ENCODER:
            module = TeacherEncoder(vae.encoder, vae.quant_conv)
        else:
            module = TeacherDecoder(vae.post_quant_conv, vae.decoder)
        module.training = vae.training  # not train(), which would reach into the teacher's shared modules
        return copying.deepcopy(module) if copy else module
    with torch.device("meta"):
        module = tiny_vae_stage(vae, stage, levels)
    like = next(vae.parameters())
    module = module.to_empty(device=like.device).to(like.dtype)
    initialise(module, seed)
    return module.train(vae.training)


def tiny_vae_stage(vae: VAE, stage: str, levels: Sequence[TinyLevel], make: Make = made) -> nn.Module:
    """A tiny ResNet with this VAE's interface, its weights torch's own initial ones.

    Args:
        vae: the teacher's ``AutoencoderKL``.
        stage: ``VE`` or ``VD``.
        levels: width and depth of each level, full resolution first.
        make: makes the layers.
    """
    config = vae.config
    if stage == VAE_ENCODER:
        return TinyEncoder(config.in_channels, 2 * config.latent_channels, levels, make)
    return TinyDecoder(config.latent_channels, config.out_channels, levels, config.scaling_factor, make)


def check_vae_candidate(vae: VAE, candidate: Candidate) -> None:
    """Raise unless the candidate names options of both halves of this VAE, and a number of steps.

    Raises:
        UserError: a VAE that cannot be taken apart, a candidate without options of VE, VD and steps, or an option that
            this VAE's interface does not allow.
    """
    check_vae_supported(vae)
    missing = [stage for stage in (*VAE_STAGES, STEPS) if stage not in candidate.options]
    if missing:
        raise UserError(f"candidate {candidate.id!r} has no {', '.join(missing)}; a pipeline has VE, VD and steps")
    for stage in VAE_STAGES:
        parse_option(vae, stage, candidate.options[stage])
    parse_steps(candidate.options[STEPS])


def assemble_vae(
    vae: VAE,
    candidate: Candidate,
    stages: Mapping[tuple[str, str], nn.Module] | None = None,
    copy: bool = True,
    seed: int = 0,
) -> StagedVAE:
    """A candidate's VAE.

    Args:
        vae: the teacher's ``AutoencoderKL``.
        candidate: a pipeline; its U-Net and its steps are not looked at.
        stages: trained modules by (stage, option name); used as they are. Others come from :func:`build_vae_stage`.
        copy: whether halves that are the teacher's are deep copies; ``False`` for inference only.
        seed: of the weights of untrained tiny ResNets.

    Raises:
        UserError: see :func:`check_vae_candidate`.
    """
    check_vae_candidate(vae, candidate)
    given = stages or {}
    options = {stage: candidate.options[stage] for stage in VAE_STAGES}
    modules = {
        stage: given[stage, name] if (stage, name) in given else build_vae_stage(vae, stage, name, copy, seed)
        for stage, name in options.items()
    }
    return StagedVAE.from_parts(vae, options, modules)


class StagedVAE(AutoencoderKL):
    """A candidate's VAE: one module for each half.

    It is an ``AutoencoderKL`` to diffusers: ``encode``, ``decode``, slicing, tiling, ``save_pretrained`` and
    ``from_pretrained`` are inherited, and pipelines run it unchanged. ``encoder`` gives moments and ``decoder`` takes
    latents; the 1x1 convolutions that ``AutoencoderKL`` keeps outside belong to the teacher's halves here.

    Args:
        teacher_config: configuration of the teacher's ``AutoencoderKL``.
        options: option names of ``VE`` and ``VD``.
        in_channels, out_channels, latent_channels, block_out_channels, sample_size, scaling_factor, force_upcast: as in
            the teacher's configuration; diffusers pipelines read them here.
        use_quant_conv, use_post_quant_conv: always false; ``AutoencoderKL``'s tiling reads them here.
    """

    _no_split_modules: tuple[str, ...] = (*AutoencoderKL._no_split_modules, "AutoencoderTinyBlock")
    _group_offload_block_modules: tuple[str, ...] = ("encoder", "decoder")

    @register_to_config
    def __init__(
        self,
        teacher_config: dict[str, Any],
        options: dict[str, str],
        in_channels: int = 3,
        out_channels: int = 3,
        latent_channels: int = 4,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        sample_size: int | tuple[int, int] = 512,
        scaling_factor: float = 0.18215,
        force_upcast: bool = True,
        use_quant_conv: bool = False,
        use_post_quant_conv: bool = False,
    ) -> None:
        ModelMixin.__init__(self)  # not AutoencoderKL's, which would build its own halves
        vae = AutoencoderKL.from_config(teacher_config)
        self._install({stage: build_vae_stage(vae, stage, options[stage], copy=False) for stage in VAE_STAGES})

    @classmethod
    def from_parts(cls, vae: VAE, options: Mapping[str, str], stages: Mapping[str, nn.Module]) -> StagedVAE:
        """Put the modules of ``VE`` and ``VD`` together without building anything anew."""
        net = cls.__new__(cls)
        ModelMixin.__init__(net)
        config = {key: value for key, value in vae.config.items() if not key.startswith("_")}
        net.register_to_config(
            teacher_config=config,
            options=dict(options),
            **{key: config[key] for key in _READ_BY_PIPELINES},
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        net._install(stages)
        net.training = vae.training
        return net

    def _install(self, stages: Mapping[str, nn.Module]) -> None:
        self.encoder = stages[VAE_ENCODER]
        self.decoder = stages[VAE_DECODER]
        self.quant_conv = None
        self.post_quant_conv = None
        # What AutoencoderKL's slicing and tiling start from.
        self.use_slicing = False
        self.use_tiling = False
        size = self.config.sample_size
        self.tile_sample_min_size = int(size if isinstance(size, int) else size[0])
        self.tile_latent_min_size = self.tile_sample_min_size // self.num_pixels_per_latent
        self.tile_overlap_factor = 0.25

    @property
    def num_pixels_per_latent(self) -> int:
        """Pixels of the image per latent, along one side."""
        return int(2 ** (num_vae_levels(self) - 1))

    @property
    def options(self) -> dict[str, str]:
        """Option names of ``VE`` and ``VD``."""
        return {stage: self.config.options[stage] for stage in VAE_STAGES}

    @property
    def is_teachers(self) -> bool:
        """Whether both halves are the teacher's, so that an ``AutoencoderKL`` does the same."""
        return set(self.options.values()) == {TEACHER}

    def _encode(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if min(height, width) < self.num_pixels_per_latent:
            raise UserError(
                f"image of {height} x {width} pixels is smaller than one latent; "
                f"legal are {self.num_pixels_per_latent} pixels and more along each side"
            )
        moments: Tensor = super()._encode(x)
        return moments


_READ_BY_PIPELINES = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "block_out_channels",
    "sample_size",
    "scaling_factor",
    "force_upcast",
)
