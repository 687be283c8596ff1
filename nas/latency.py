"""Latency of candidates on a device, from a profile of any kind: measured on it, fitted to a few figures, shipped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.profile_file import LatencyTable
    from search_spaces.space import SearchSpace

#: What a device profile was fitted from (its field `information`), in words.
SOURCES = {
    "spec_sheet": "a spec sheet alone: nothing was measured on the device",
    "anchor": "one measured latency",
    "networks": "measured whole networks, no stage option by itself",
    "some_blocks": "some measured stage options; the others are estimated",
    "blocks": "every stage option, measured, and whole networks",
    "public": "public measurements of whole models: no stage option or candidate was measured on the device",
}


@dataclass(frozen=True)
class DeviceFacts:
    """What a profile speaks of, and how far to trust it.

    Attributes:
        fitted_from: a key of ``SOURCES``.
        error: its error on networks that it did not see, as a sentence; empty where it has none.
        notes: what else it says of itself.
    """

    device: str
    runtime: str
    precision: str
    threads: int | None
    fitted_from: str
    error: str
    notes: tuple[str, ...]

    @property
    def is_measured(self) -> bool:
        """Whether every stage option was measured on the device."""
        return self.fitted_from == "blocks"

    @property
    def title(self) -> str:
        """Device, precision and, on a processor, threads: enough to tell two profiles of a machine apart."""
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads is not None else ""
        return f"{self.device} ({self.precision}{threads})"

    @property
    def folder(self) -> str:
        """The title as the name of a folder."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def device_facts(profile: DeviceProfile | NpuProfile) -> DeviceFacts:
    """What a profile of either kind says of itself."""
    from latency_predictors.npu.profile import NpuProfile

    if isinstance(profile, NpuProfile):
        errors = sorted(abs(error.error_pct) for error in profile.errors.without_diffusion)
        median = errors[len(errors) // 2] if errors else None
        said = f"median error {median} %, worst {errors[-1]} % on {len(errors)} networks" if errors else ""
        return DeviceFacts(
            device=f"{profile.device}, {profile.soc} NPU" if profile.soc not in profile.device else profile.device,
            runtime=profile.toolchain,
            precision=profile.precision.value,
            threads=None,
            fitted_from="public",
            error=f"{said} of Stable Diffusion and ControlNet when none of them was fitted" if said else "",
            notes=profile.notes,
        )
    judged = profile.judgement
    return DeviceFacts(
        device=profile.device,
        runtime=profile.runtime,
        precision=profile.precision,
        threads=profile.threads,
        fitted_from=profile.information,
        error=""
        if judged is None
        else f"median error {judged.median_error_pct:.1f} %, 90th percentile {judged.p90_error_pct:.1f} % on {judged.num} "
        f"{'unseen networks' if judged.how == 'unseen' else 'networks, each left out of the fit'}",
        notes=(),
    )


@dataclass(frozen=True)
class TeacherShapes:
    """A teacher without weights, as far as latency asks for it; networks are on the ``meta`` device."""

    unet: Any
    vae: Any
    latent_size: int
    num_tokens: int


def teacher_shapes(teacher: str | Path) -> TeacherShapes:
    """Shapes of a teacher from its configurations.

    Raises:
        UserError: a teacher that is not found or cannot be used, or one of oblong latents.
    """
    from nas.teacher import load_shapes, num_text_tokens

    unet, vae = load_shapes(teacher)
    size = unet.config.sample_size
    if not isinstance(size, int):
        raise UserError(
            f"teacher {str(teacher)!r}: sample_size {size!r} of its U-Net is no number; give square latents"
        )
    return TeacherShapes(unet, vae, size, num_text_tokens(teacher))


def latency_table(
    profile: DeviceProfile | NpuProfile,
    space: SearchSpace,
    teacher: str | Path,
    teacher_key: str | None = None,
    latent_size: int | None = None,
) -> LatencyTable:
    """Latency of every candidate of a space by a profile of either kind.

    Args:
        teacher: whose shapes an NPU profile is tabulated for (nothing but its configurations is read); a device profile
            knows the costs of its own options.
        teacher_key, latent_size: what a device profile must have been calibrated for, where given.

    Raises:
        UserError: a device profile of another space, teacher or size; a teacher that cannot be used.
    """
    from latency_predictors.profile import DeviceProfile

    if isinstance(profile, DeviceProfile):
        profile.check(space, teacher_key, latent_size)
        return profile.tabulate(None, space, profile.latent_size, profile.num_tokens)
    shapes = teacher_shapes(teacher)
    return profile.tabulate(shapes.unet, space, shapes.latent_size, shapes.num_tokens, vae=shapes.vae)
