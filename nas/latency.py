"""Latency of candidates on a device, from a profile of any kind: measured on it, fitted to a few figures, shipped."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from latency_predictors.information import INFORMATION, PUBLIC

if TYPE_CHECKING:
    from latency_predictors.latency_table import LatencyTable
    from latency_predictors.measurement import Measurement
    from latency_predictors.npu.profile import NpuProfile
    from latency_predictors.profile import DeviceProfile
    from search_spaces.space import SearchSpace


#: A name of that many letters fits into 255 bytes in any script.
_MOST_LETTERS = 60


@dataclass(frozen=True)
class DeviceFacts:
    """What a profile speaks of, and how far to trust it.

    Attributes:
        fitted_from: a key of ``INFORMATION``.
        error: its error on networks that it did not see, as a sentence; empty where it has none.
        notes: what else it says of itself.
        file: where it was read from, as it was given; empty where nobody asks.
        key: of its content; empty where nobody asks.
    """

    device: str
    runtime: str
    precision: str
    threads: int | None
    fitted_from: str
    error: str
    notes: tuple[str, ...]
    file: str = ""
    key: str = ""

    @property
    def is_measured(self) -> bool:
        """Whether every stage option was measured on the device."""
        return self.fitted_from == "blocks"

    @property
    def title(self) -> str:
        """Device, precision and, on a processor, threads; see :func:`told_apart` for two profiles of one machine."""
        return f"{' '.join(self.device.split())} ({self.details})"

    @property
    def details(self) -> str:
        """Precision and, on a processor, threads."""
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if self.threads is not None else ""
        return f"{self.precision}{threads}"

    @property
    def folder(self) -> str:
        """The title as the name of a folder: letters and digits of any script; two devices may share one."""
        plain = unicodedata.normalize("NFKC", self.title).casefold()
        return re.sub(r"[\W_]+", "-", plain).strip("-")[:_MOST_LETTERS].rstrip("-")


def told_apart(first: DeviceFacts, second: DeviceFacts) -> tuple[str, str]:
    """Titles of two profiles; where those are the same, with what else differs: the runtime, else the file."""
    if first.title == second.title:
        for this, other in ((first.runtime, second.runtime), (first.file, second.file)):
            if this != other:
                return f"{first.title}, {this}", f"{second.title}, {other}"
    return first.title, second.title


def is_of(facts: DeviceFacts, measurement: Measurement) -> bool:
    """Whether a measurement was taken on the device that a profile speaks of: also runtime, precision and threads."""
    own = (facts.device, facts.runtime, facts.precision, facts.threads)
    return own == (measurement.device, measurement.runtime, measurement.precision, measurement.threads)


def trust(facts: DeviceFacts, num_extrapolating: int, num: int) -> list[str]:
    """What to know of a device's latencies before reading them, in sentences; `num` candidates were predicted."""
    said = [
        f"Latency on {facts.device} is {'predicted from measurements' if facts.is_measured else 'an estimate'}. Its "
        f"profile was fitted to {INFORMATION[facts.fitted_from]}."
    ]
    if facts.error:
        said[0] += f" {facts.error[:1].upper()}{facts.error[1:]}."
    if num_extrapolating:
        which = f"all {num:,}" if num_extrapolating == num else f"{num_extrapolating:,} of {num:,}"
        said.append(
            f"The profile extrapolates to {which} candidates: they lie outside of what it was fitted to, so that their "
            "intervals are guesses."
        )
    return said


def device_facts(profile: DeviceProfile | NpuProfile) -> DeviceFacts:
    """What a profile of either kind says of itself."""
    from latency_predictors.npu.profile import NpuProfile

    if isinstance(profile, NpuProfile):
        return DeviceFacts(
            device=npu_title(profile.device, profile.soc),
            runtime=profile.toolchain,
            precision=profile.precision.value,
            threads=None,
            fitted_from=PUBLIC,
            error=npu_error([error.error_pct for error in profile.errors.without_diffusion]),
            notes=profile.notes,
        )
    found = profile.judgement
    return DeviceFacts(
        device=profile.device,
        runtime=profile.runtime,
        precision=profile.precision,
        threads=profile.threads,
        fitted_from=profile.information,
        error="" if found is None else unseen_error(found.median_error_pct, found.p90_error_pct, found.num, found.how),
        notes=(),
    )


def npu_title(device: str, soc: str) -> str:
    """An NPU by the device that it is in."""
    return device if soc in device else f"{device}, {soc} NPU"


def npu_error(errors_pct: Sequence[int]) -> str:
    """An NPU profile's errors in per cent on networks of a kind that was left out of its fit; empty for none."""
    if not errors_pct:
        return ""
    absolute = sorted(abs(error) for error in errors_pct)
    return (
        f"median error {median(absolute):.0f} %, worst {absolute[-1]} % on {len(absolute)} figures of Stable Diffusion "
        "and ControlNet when none of them was fitted"
    )


def unseen_error(median_pct: float, p90_pct: float, num: int, how: str) -> str:
    """A device profile's errors in per cent over `num` whole networks (how: `unseen` or `leave_one_out`)."""
    which = "unseen whole U-Nets" if how == "unseen" else "whole U-Nets, each left out of the fit"
    return f"median error {median_pct:.1f} %, 90th percentile {p90_pct:.1f} % on {num} {which}"


@dataclass(frozen=True)
class DeviceLatency:
    """A device, and the latency of every candidate of one search space on it."""

    facts: DeviceFacts
    table: LatencyTable


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
    from nas.teacher_shapes import teacher_shapes

    shapes = teacher_shapes(teacher)
    return profile.tabulate(shapes.unet, space, shapes.latent_size, shapes.num_tokens, vae=shapes.vae)
