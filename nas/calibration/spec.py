"""A spec sheet as the user gives it, and what is to be said of it beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.profile import DeviceProfile
    from latency_predictors.spec_sheet import SpecSheet

#: Bytes of an activation, where a spec sheet does not say.
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float": 2, "w8a16": 2, "w16a16": 2, "w4a16": 2, "w8a8": 1}


def spec_sheet(given: Sequence[str], precision: str) -> SpecSheet | None:
    """The rates of files and "rate=value" together, later ones first; None where nothing is given.

    Raises:
        UserError: a file that is no mapping, a rate that is unknown or missing, or a value that is no such rate.
    """
    if not given:
        return None
    import yaml

    from latency_predictors.spec_sheet import LEGAL, SpecSheet

    rates: dict[str, Any] = {"bytes_per_element": _BYTES[precision]} if precision in _BYTES else {}
    legal = ", ".join(LEGAL)
    for text in given:
        key, equals, value = text.partition("=")
        if equals:
            rates[key.strip()] = value.strip()
            continue
        try:
            content = yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no path
            reason = " ".join(str(error).split())
            raise UserError(f"--spec {text}: cannot be read ({reason}); give a YAML file with {legal}") from None
        if not isinstance(content, dict):
            raise UserError(f"--spec {text}: holds no rates; give a YAML file with {legal}")
        rates |= content
    return SpecSheet.of(rates, "--spec")


def remarks(given: Sequence[str], profile: DeviceProfile) -> list[str]:
    """What a user has to know who gave a spec sheet: that measurements contradict it, or that it was not needed."""
    import numpy as np

    from latency_predictors.models.base import UNKNOWN_FACTOR
    from latency_predictors.networks import Networks
    from latency_predictors.sheet_agreement import contradicts, log_ratios

    sheet = spec_sheet(given, str(profile.precision))
    if sheet is None:
        return []
    found = []
    if profile.model.kind == "additive":
        found.append("--spec: not used; the measured stage options tell more")
    networks = Networks.of(profile.own_space, profile.training.networks, list(profile.training.networks))
    ratios = log_ratios(networks, sheet, profile.kernel_tables, profile.own_space)
    num_far = int(contradicts(ratios).sum())
    if num_far:
        worst = int(np.argmax(np.abs(ratios)))
        ms, ratio = float(networks.latency_ms[worst]), float(np.exp(abs(ratios[worst])))
        others = "" if num_far == 1 else f", and {num_far - 1} more are as far off"
        found.append(
            f"--spec contradicts what was measured: {networks.ids[worst]} takes {ms:.4g} ms, by the sheet "
            f"{ms / np.exp(ratios[worst]):.4g} ms, a factor of {ratio:.3g} (its interval is one of "
            f"{UNKNOWN_FACTOR:g}){others}; the interval goes by the measurements alone: check the units of both"
        )
    return found
