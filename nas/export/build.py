"""The modules of any candidate on disk, with weights inherited from the teacher; no run is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from nas.export.folders import publish_folder
from nas.export.variant import CANDIDATE_FILE
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher
    from search_spaces.space import SearchSpace


class BuiltCandidate(BaseModel):
    """Content of candidate.json: the candidate, what it was built from, and the class that loads each part.

    `teacher` is what :func:`nas.teacher.load_teacher` was given, `teacher_key` what it found. `random_weights` lists
    the stages that inherit nothing from the teacher and have to be trained before use; `seed` is theirs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    candidate: str
    options: dict[str, str]
    teacher: str
    teacher_key: str
    steps: int | None
    num_params: dict[str, int]
    loads_with: dict[str, str]
    unet_not_standard_because: str | None
    random_weights: tuple[str, ...]
    seed: int | None

    def loading(self, folder: Path) -> list[str]:
        """Lines of Python that load the parts from `folder` and run them in a pipeline with the teacher's others."""
        lines = []
        for part, home in self.loads_with.items():
            module, _, name = home.rpartition(".")
            lines.append(f"from {module} import {name}; {part} = {name}.from_pretrained({str(folder / part)!r})")
        parts = ", ".join(f"{part}={part}" for part in self.loads_with)
        steps = "" if self.steps is None else f", num_inference_steps={self.steps}"
        return [
            *lines,
            f"from nas.teacher import load_teacher; pipeline = load_teacher({self.teacher!r}).pipeline({parts})",
            f'image = pipeline("a photo"{steps}).images[0]',
        ]


def find_candidate(text: str, teacher: Teacher, space: SearchSpace | None = None) -> Candidate:
    """The candidate that a user names.

    Args:
        text: a candidate id, a JSON file with `options` (a candidate, a record of a run, a candidate.json), or, with a
            `space`, the name of one of its candidates.
        teacher: whose stages an id lists.
        space: when given, the candidate must be one of it.

    Raises:
        UserError: none of these, or a candidate of other stages than the teacher's or the space's.
    """
    from search_spaces.surgery import stage_names
    from search_spaces.vae_option import STEPS, VAE_STAGES

    unet = stage_names(teacher.unet)
    pipeline = (*unet, *VAE_STAGES, STEPS)
    is_name = space is not None and text in space.candidates
    if os.path.isfile(text) and not is_name:  # Path.is_file raises where an id is too long for a file name
        candidate = _read(Path(text))
        # An object in JSON has no order, and some writers sort its keys.
        order = pipeline if candidate.is_pipeline else unet
        if set(candidate.options) == set(order):
            candidate = Candidate(options={stage: candidate.options[stage] for stage in order})
    elif text.endswith(".json") or os.sep in text:
        raise UserError(f"candidate file {text} does not exist; give a JSON file with 'options', or a candidate id")
    elif space is None:
        try:
            candidate = Candidate.from_id(text, pipeline if len(text.split("-")) == len(pipeline) else unet)
        except UserError as error:
            raise _name_of_a_preset(text) or error from None
    elif is_name or "-" not in text:
        candidate = space.named(text)
    else:
        candidate = Candidate.from_id(text, space.stages)
    if space is not None:
        space.encode(candidate)
    return candidate


def _name_of_a_preset(text: str) -> UserError | None:
    """What to say where the text is no id but names a candidate of some presets."""
    from search_spaces.space_file import load_space, preset_names

    presets = [name for name in preset_names() if text in load_space(name).candidates]
    if not presets:
        return None
    return UserError(
        f"candidate {text!r} is a name, not an id; say of which search space: add --space {presets[0]}"
        + (f" (or {', '.join(presets[1:])})" if presets[1:] else "")
    )


def _read(path: Path) -> Candidate:
    try:
        return Candidate.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"candidate file {path} cannot be read ({error}); give JSON in UTF-8") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def check_new_folder(folder: Path) -> None:
    """Raise unless the folder is new or empty.

    Raises:
        UserError: it holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"folder {folder} exists and is not empty; give a new or an empty one")


def build_candidate(teacher: Teacher, candidate: Candidate, folder: Path | str, seed: int = 0) -> BuiltCandidate:
    """Write the candidate's networks, whole or not at all.

    `unet/` is a standard `UNet2DConditionModel` where the words allow it, else a `StagedUNet`. A pipeline has `vae/` as
    well: the teacher's own `AutoencoderKL`, or a `StagedVAE`. All weights are float32 and the teacher's where layers
    remain; no surrogate block is trained.

    Args:
        teacher: gives the weights.
        candidate: a U-Net or a pipeline of this teacher.
        folder: new or empty.
        seed: of the weights of tiny ResNets, which the teacher has no counterpart of.

    Raises:
        UserError: options that this teacher does not have, or a folder that is not empty or cannot be written.
    """
    from nas.export.load import quiet_libraries
    from nas.export.portable import align_tensors, drop_machine_paths
    from search_spaces.standard import to_diffusers, why_not_standard
    from search_spaces.surgery import assemble
    from search_spaces.vae import assemble_vae, check_vae_candidate
    from search_spaces.vae_option import STEPS, TEACHER, VAE_STAGES

    folder = Path(folder)
    check_new_folder(folder)
    if candidate.is_pipeline:
        check_vae_candidate(teacher.vae, candidate)  # before the U-Net, which takes a while at full size
    staged = assemble(teacher.unet, candidate.unet, copy=False)
    reason = why_not_standard(teacher.unet, candidate.unet)
    parts: dict[str, Any] = {"unet": to_diffusers(staged) if reason is None else staged}
    if candidate.is_pipeline:
        vae = assemble_vae(teacher.vae, candidate, copy=False, seed=seed)
        parts["vae"] = teacher.vae if vae.is_teachers else vae
    random = tuple(stage for stage in VAE_STAGES if candidate.options.get(stage, TEACHER) != TEACHER)
    built = BuiltCandidate(
        candidate=candidate.id,
        options=candidate.options,
        teacher=teacher.spec,
        teacher_key=teacher.key,
        steps=int(candidate.options[STEPS]) if candidate.is_pipeline else None,
        num_params={name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        loads_with={name: _home(part) for name, part in parts.items()},
        unet_not_standard_because=reason,
        random_weights=random,
        seed=seed if random else None,
    )

    def write(temporary: Path) -> None:
        with quiet_libraries():
            for name, part in parts.items():
                part.save_pretrained(temporary / name, safe_serialization=True)
        drop_machine_paths(temporary)
        for path in temporary.glob("*/*.safetensors"):
            align_tensors(path)
        (temporary / CANDIDATE_FILE).write_text(built.model_dump_json(indent=2) + "\n", encoding="utf-8")

    publish_folder(folder, write, is_ours=lambda _: False)
    return built


def _home(part: Any) -> str:
    """Where the class of a part is imported from."""
    module = type(part).__module__
    return f"{'diffusers' if module.startswith('diffusers.') else module}.{type(part).__name__}"
