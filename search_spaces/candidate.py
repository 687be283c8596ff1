"""A candidate: one option per stage, of the U-Net alone or of the whole pipeline."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from search_spaces.errors import UserError, shortened, shown
from search_spaces.options import DEEP, MAX_LEVELS, NONE
from search_spaces.vae_option import STEPS, TEACHER, VAE_STAGES

UNET_STAGES = ("E1", "E2", "E3", "deep", "D3", "D2", "D1")  # of SD 1.x and 2.x
_BEYOND_UNET = (*VAE_STAGES, STEPS)
_SEPARATOR = "-"
MAX_SHOWN = 240
"""Characters of an id that a message shows: all of any but a pathological one."""

_JSON_FORM = 'write {"options": {"E1": "RA", ...}}'
_EXAMPLE = "RARA-RA-R-none-RARA-RR-R"


class Candidate(BaseModel):
    """One option name per stage, in the order in which data flows through the U-Net; then, if the candidate is a
    whole pipeline, the options of the VAE's encoder and decoder (``VE``, ``VD``) and the number of ``steps``.

    Two candidates are equal when their options are; :attr:`id` is the canonical text of that, fit for
    file names, and does not depend on any search space.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: dict[str, str]

    @property
    def id(self) -> str:
        """The option names joined by ``-``, such as ``RARA-RA-R-none-RARA-RR-R@3``."""
        return _SEPARATOR.join(self.options.values())

    @property
    def is_pipeline(self) -> bool:
        """Whether this is more than a U-Net alone."""
        return any(stage in self.options for stage in _BEYOND_UNET)

    @property
    def unet(self) -> Candidate:
        """The U-Net alone: itself without the VAE's stages and the steps."""
        return Candidate(options={stage: name for stage, name in self.options.items() if stage not in _BEYOND_UNET})

    @classmethod
    def from_id(cls, text: str, stages: tuple[str, ...] | None = None) -> Self:
        """Read an :attr:`id` back.

        Args:
            text: the id.
            stages: stage names in order; without them, what the number of options says: an odd number 2k + 1 is a
                U-Net with stages E1 to Ek, deep, Dk to D1 (7 for SD 1.x and 2.x, 5 for SDXL), an even number
                2k + 4 the same with VE, VD and steps, the last of which is a number.

        Raises:
            UserError: another number of options than stages, or one that no network has.
        """
        names = text.strip().split(_SEPARATOR)
        if stages is None:
            stages = _stages_of(text, names)
        if len(names) != len(stages) or not all(names):
            raise UserError(
                f"candidate {shown(text, MAX_SHOWN)} has {len(names)} options; legal is one per stage "
                f"{_SEPARATOR.join(stages)}, such as {shortened(_fitting_example(names, stages), MAX_SHOWN)}"
            )
        return cls(options=dict(zip(stages, names, strict=True)))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the JSON of :meth:`to_json`.

        Raises:
            UserError: not JSON, a key given twice, or not a mapping of stage to option name under ``options``.
        """
        try:
            data = json.loads(text, object_pairs_hook=_without_repeats)
        except UserError:
            raise
        except RecursionError:
            raise UserError(f"candidate is not JSON: nested too deeply; {_JSON_FORM}") from None
        except json.JSONDecodeError as error:
            raise UserError(f"candidate is not JSON: {error}; {_JSON_FORM}") from None
        except ValueError:  # what Python raises for whole numbers of thousands of digits
            raise UserError(f"candidate is not JSON: a number has too many digits; {_JSON_FORM}") from None
        options = data.get("options") if isinstance(data, Mapping) else None
        if not isinstance(options, Mapping) or not all(isinstance(v, str) for v in options.values()):
            raise UserError("candidate JSON must be an object with 'options' mapping each stage to an option name")
        return cls(options=dict(options))

    def to_json(self) -> str:
        """One JSON line."""
        return json.dumps({"options": self.options})

    def replace(self, stage: str, option: str) -> Candidate:
        """The same candidate with another option in one stage."""
        if stage not in self.options:
            raise UserError(f"unknown stage {shown(stage)}; this candidate has {', '.join(self.options)}")
        return Candidate(options={**self.options, stage: option})

    def __hash__(self) -> int:
        return hash(tuple(self.options.items()))

    def __str__(self) -> str:
        return self.id


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UserError(f"candidate JSON gives key {shown(key)} twice; give it once")
        found[key] = value
    return found


def _fitting_example(names: list[str], stages: tuple[str, ...]) -> str:
    """An id with one option for each stage; the given options of a U-Net with those of the teacher's pipeline."""
    example = {DEEP: NONE, **dict.fromkeys(VAE_STAGES, TEACHER), STEPS: "1"}
    unet = [stage for stage in stages if stage not in _BEYOND_UNET]
    if len(names) == len(unet) and all(names):
        example |= dict(zip(unet, names, strict=True))
    return _SEPARATOR.join(example.get(stage, "RA") for stage in stages)


def _stages_of(text: str, names: list[str]) -> tuple[str, ...]:
    """Stages of a U-Net, or of a pipeline, with this many options."""
    is_pipeline = names[-1].isascii() and names[-1].isdecimal()
    levels, rest = divmod(len(names) - (len(_BEYOND_UNET) if is_pipeline else 0) - 1, 2)
    if rest or not 1 <= levels <= MAX_LEVELS:
        raise UserError(
            f"candidate {shown(text, MAX_SHOWN)} has {len(names)} options; legal is one for each of E1 to Ek, "
            f"deep, Dk to D1 (7 for SD 1.x and 2.x, 5 for SDXL), such as {_EXAMPLE}, "
            "and for a pipeline 3 more for VE, VD and steps, the last a number"
        )
    numbers = range(1, levels + 1)
    unet = (*(f"E{i}" for i in numbers), DEEP, *(f"D{i}" for i in reversed(numbers)))
    return (*unet, *_BEYOND_UNET) if is_pipeline else unet
