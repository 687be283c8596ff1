"""What is measured of a whole student, and what its card says of the VAE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nas.run.context import RunContext
from search_spaces.vae_option import TEACHER, VAE_DECODER, VAE_ENCODER

if TYPE_CHECKING:
    from nas.data.image_data import ImageData
    from nas.export.variant import Costs, VaePart
    from nas.fidelity.paired import Fidelity
    from search_spaces.unet import StagedUNet
    from search_spaces.vae import StagedVAE

NUM_IMAGES = 32
"""Sampled images that are compared with the teacher's."""


class Scores:
    """Everything that is measured of one whole student."""

    def __init__(self, run: RunContext, unet: StagedUNet, vae: StagedVAE | None, data: ImageData | None) -> None:
        import torch

        from nas.distill.align_whole import whole_noise_error
        from nas.fidelity.images import image_distances
        from nas.fidelity.vae_quality import reconstructions

        evaluator, teacher = run.evaluator, run.teacher
        self.fidelity: Fidelity = evaluator.evaluate(unet)
        self.values = {name: float(getattr(self.fidelity, name)) for name in ("latent_error", "noise_error", "tafid")}
        self.intervals: dict[str, tuple[float, float]] = dict(self.fidelity.intervals)
        self.decisive = self.fidelity.latent_error
        if vae is None or data is None:
            return
        if vae.options[VAE_ENCODER] != TEACHER:
            error, interval = whole_noise_error(teacher, unet, vae, data, run.recipe.seed)
            self.values["whole_noise_error"] = self.decisive = error
            if interval is not None:
                self.intervals["whole_noise_error"] = interval
        rows = torch.arange(min(NUM_IMAGES, evaluator.settings.num_samples))
        latents = evaluator.sample(unet, evaluator.noise[rows], rows)
        images = reconstructions(vae, latents / float(teacher.vae.config.scaling_factor))
        target = teacher.decode_latents(evaluator.paired_inputs.latents[rows])
        for measure, value in image_distances(teacher.vae, images, target)._asdict().items():
            if value is not None:
                self.values[f"image_{measure}"] = float(value)


def vae_part(run: RunContext, vae: StagedVAE, data: ImageData, bank_keys: Mapping[str, str]) -> VaePart:
    """What the card says of the VAE: costs of both halves beside the teacher's, and its quality."""
    from nas.export.variant import VaeHalf, VaePart
    from nas.fidelity.vae_quality import vae_quality

    halves = {
        stage: VaeHalf(
            option=option,
            costs=_half_costs(run, stage, option),
            teacher_costs=_half_costs(run, stage, TEACHER),
            bank_key=bank_keys.get(stage),
        )
        for stage, option in vae.options.items()
    }
    quality = vae_quality(run.teacher.vae, vae, data)
    found = {k: v for k, v in quality.model_dump(exclude={"num_images"}).items() if v is not None}
    return VaePart(
        encoder=halves[VAE_ENCODER], decoder=halves[VAE_DECODER], quality=found, num_images=quality.num_images
    )


def _half_costs(run: RunContext, stage: str, option: str) -> Costs:
    """Parameters, and MACs of one image, of half a VAE."""
    from nas.export.variant import Costs
    from search_spaces.stage_costs import vae_stage_cost

    cost = vae_stage_cost(run.teacher.vae, stage, option, run.teacher.latent_size)
    macs = sum(value for name, value in cost.trace.sums.items() if "_macs@" in name)
    return Costs(num_params=cost.params.matrices + cost.params.vectors, num_macs=macs)
