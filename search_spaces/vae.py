"""VAEs of candidates: each half the teacher's own or a tiny ResNet, behind ``AutoencoderKL``'s interface."""

from __future__ import annotations

import copy as copying
from typing import Any, TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from search_spaces.errors import UserError
from search_spaces.vae_layers import TeacherDecoder, TeacherEncoder, TinyDecoder, TinyEncoder, initialise
from search_spaces.vae_option import VAE_ENCODER, VAE_STAGES, VaeOption, parse_vae_option

VAE: TypeAlias = Any
"""An ``AutoencoderKL``, whose configuration and modules diffusers leaves untyped."""


def check_vae_supported(vae: VAE) -> None:
    """Raise unless the VAE is one whose halves can be exchanged.

    Raises:
        UserError: another class than ``AutoencoderKL``, or latents with a shift, which SD's pipelines do not know.
    """
    if type(vae) is not AutoencoderKL:
        raise UserError(f"unsupported teacher: the VAE is {type(vae).__name__}; legal is AutoencoderKL")
    if vae.config.shift_factor is not None:
        raise UserError(
            f"unsupported teacher: the VAE's shift_factor is {vae.config.shift_factor:g}; "
            "only VAEs without it can be taken apart"
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
    config, is_encoder = vae.config, stage == VAE_ENCODER
    module: nn.Module
    if levels is None:
        if is_encoder:
            module = TeacherEncoder(vae.encoder, vae.quant_conv)
        else:
            module = TeacherDecoder(vae.post_quant_conv, vae.decoder)
        module.training = vae.training  # not train(), which would reach into the teacher's shared modules
        return copying.deepcopy(module) if copy else module
    with torch.device("meta"):
        if is_encoder:
            module = TinyEncoder(config.in_channels, 2 * config.latent_channels, levels)
        else:
            module = TinyDecoder(config.latent_channels, config.out_channels, levels, config.scaling_factor)
    like = next(vae.parameters())
    module = module.to_empty(device=like.device).to(like.dtype)
    initialise(module, seed)
    return module.train(vae.training)
