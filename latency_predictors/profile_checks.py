"""What must hold between the fields of a device profile, so that one that was edited by hand says what is wrong."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import ValidationError

from search_spaces.errors import UserError
from search_spaces.options import NONE
from search_spaces.space import SearchSpace, listed

if TYPE_CHECKING:
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.profile_records import Part

#: Latents and texts larger than these are no network's; kernel sums beyond 2^53 are not exact as floats.
MOST_LATENTS, MOST_TOKENS = 2**14, 2**20
_LARGEST_SUM = 2**53


def check_fields(profile: DeviceProfile) -> None:
    """ValueError, naming the field, unless parts, other devices, space and model of a profile fit together."""
    _check_space(profile)
    for stage, options in profile.options.items():
        for option, part in options.items():
            _check_part(profile, f"options.{stage}.{option}", part)
            if option == NONE and (part.timing is not None or part.estimated_ms != 0):
                raise ValueError(f"options.{stage}.{option} runs nothing: timing must be null and estimated_ms 0")
    _check_part(profile, "base", profile.base)
    _check_sources(profile)
    model = profile.model
    if model.kernel_names != profile.kernel_names:
        raise ValueError("model.kernel_names differ from kernel_names")
    if model.kind != "additive" and model.num_sources != len(profile.sources):
        raise ValueError(f"sources: {len(profile.sources)} devices; the model has {model.num_sources}")
    if model.num_decisions not in (None, len(profile.options)):
        raise ValueError(
            f"options: {len(profile.options)} stages, but the model was fitted to networks of {model.num_decisions}"
        )


def _check_space(profile: DeviceProfile) -> None:
    for stage, options in profile.options.items():
        if not options:
            raise ValueError(f"options.{stage}: no options; needed is at least one")
    if not profile.options:
        raise ValueError("options: no stages; needed is at least one")
    try:
        space = SearchSpace.model_validate(
            {"name": profile.space, "options": {stage: list(options) for stage, options in profile.options.items()}}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "space" if first["loc"] == ("name",) else ".".join(map(str, first["loc"])) or "options"
        raise ValueError(f"{where} is {first['input']!r:.60}: {first['msg']}") from None
    except UserError as error:
        raise ValueError(f"options: {error}") from None
    given = {stage: tuple(options) for stage, options in profile.options.items()}
    if space.options != given:
        other = next((stage for stage, names in space.options.items() if given.get(stage) != names), "")
        raise ValueError(f"options.{other}: not a space's, whose options are {listed(space.options[other])}")


def _check_part(profile: DeviceProfile, name: str, part: Part) -> None:
    if len(part.kernels) != len(profile.kernel_names):
        raise ValueError(
            f"{name}.kernels: {len(part.kernels)} sums; needed are {len(profile.kernel_names)}, as kernel_names"
        )
    if any(value > _LARGEST_SUM for value in part.kernels):
        raise ValueError(f"{name}.kernels: {max(part.kernels)}; legal are sums up to 2^53")
    if profile.model.kind == "additive" and part.latency_ms is None:
        raise ValueError(f"{name} has no latency, which an additive model needs")


def _check_sources(profile: DeviceProfile) -> None:
    for number, source in enumerate(profile.sources):
        if not source.base_ms >= 0:
            raise ValueError(f"sources.{number}.base_ms: {source.base_ms}; legal is 0 or more")
        for stage, options in profile.options.items():
            given = source.options_ms.get(stage, {})
            for option in options:
                if option not in given:
                    raise ValueError(f"sources.{number}.options_ms.{stage}.{option}: missing")
                if not (given[option] >= 0 and math.isfinite(given[option])):
                    raise ValueError(
                        f"sources.{number}.options_ms.{stage}.{option}: {given[option]}; legal is 0 or more"
                    )
