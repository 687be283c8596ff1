"""What `nanosd measure` is asked to measure: names of subjects, and where their graphs come from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError
from search_spaces.options import NONE

if TYPE_CHECKING:
    from latency_predictors.measuring import Graphs
    from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Wanted:
    """What the command line names.

    blocks, vae: "all" or subjects such as E1/RA and VD/teacher, comma between; None: none. candidates: ids, files or
    names of the space. random: number of random candidates, drawn with `seed`. onnx: files.
    """

    teacher: str = "toy"
    space: str = "nanosd"
    blocks: str | None = None
    vae: str | None = None
    candidates: tuple[str, ...] = ()
    random: int = 0
    seed: int = 0
    operators: bool = False
    onnx: tuple[Path, ...] = ()
    random_weights: bool = False
    latent_size: int | None = None
    num_tokens: int | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.blocks or self.vae or self.candidates or self.random or self.operators or self.onnx)


@dataclass(frozen=True)
class Plan:
    """Subjects in the order in which they are measured, their graphs, and what the measurements depend on.

    digests: of subjects whose names do not say what they are, the SHA-256 of their graph.
    networks: the subjects that are whole networks: U-Nets, and files.
    """

    names: tuple[str, ...]
    graphs: Graphs
    context: dict[str, Any]
    digests: dict[str, str] = field(default_factory=dict)
    networks: tuple[str, ...] = ()


def plan(wanted: Wanted, *, only_names: bool = False) -> Plan:
    """Names every subject that is wanted.

    Args:
        wanted: as on the command line.
        only_names: the graphs will not be written, so the teacher's weights are not read.

    Raises:
        UserError: nothing wanted, files together with a teacher's subjects, or what teacher and space do not have.
    """
    if wanted.is_nothing:
        raise UserError(
            "nothing to measure; give --blocks all, --candidates ID, --random N, --vae all, --operators or --onnx FILE"
        )
    if wanted.onnx:
        return _plan_files(wanted)
    return _plan_teacher(wanted, only_names)


def _plan_files(wanted: Wanted) -> Plan:
    from latency_predictors.manifest import REFERENCE
    from latency_predictors.teacher_graphs import FileGraphs

    if wanted.blocks or wanted.vae or wanted.candidates or wanted.random or wanted.operators:
        raise UserError("--onnx: files are measured by themselves; leave out --blocks, --candidates and the like")
    files: dict[str, Path] = {}
    for path in wanted.onnx:
        if path.stem in files or path.stem == REFERENCE:
            raise UserError(f"--onnx {path}: subject name {path.stem!r} is taken; rename the file")
        files[path.stem] = path
    graphs = FileGraphs(files)
    digests = {}
    for name in files:
        with suppress(UserError):  # weights that are not there: it fails when its turn comes, and the others go on
            digests[name] = graphs.digest(name)
    return Plan(tuple(files), graphs, {"files": "onnx"}, digests, tuple(files))


def _plan_teacher(wanted: Wanted, only_names: bool) -> Plan:
    from latency_predictors.subjects import BASE, Subjects, option_subject
    from latency_predictors.teacher_graphs import TeacherGraphs
    from nas.teacher import load_teacher
    from nas.teacher_shapes import teacher_shapes
    from search_spaces.conditioning import text_width
    from search_spaces.space_file import load_space
    from search_spaces.vae_option import VAE_STAGES

    space = load_space(wanted.space)
    unet_space = unet_of(space)
    if only_names or wanted.random_weights:
        shapes = teacher_shapes(wanted.teacher, wanted.latent_size, wanted.num_tokens)
        unet, vae, size, tokens = shapes.unet, shapes.vae, shapes.latent_size, shapes.num_tokens
        key = f"shapes of {wanted.teacher}"
    else:
        teacher = load_teacher(wanted.teacher)
        unet, vae, key, size = teacher.unet, teacher.vae, teacher.key, teacher.latent_size
        tokens = wanted.num_tokens or teacher.num_tokens
    size = wanted.latent_size or size
    subjects = Subjects(unet, unet_space, size, tokens, text_width(unet.config))
    names: list[str] = []
    if wanted.blocks:
        options = [option_subject(s, o) for s in unet_space.stages for o in unet_space.options[s] if o != NONE]
        names += _chosen("--blocks", wanted.blocks, [BASE, *options])
    if wanted.vae:
        halves = [option_subject(s, o) for s in VAE_STAGES for o in space.options.get(s, ())]
        if not halves:
            raise UserError(f"--vae: search space {space.name!r} has no VAE; give one of whole pipelines, nanosd-joint")
        names += _chosen("--vae", wanted.vae, halves)
    candidates = _candidates(wanted, space)
    for candidate in candidates:
        names.append(candidate.unet.id)
        names += [option_subject(s, candidate.options[s]) for s in VAE_STAGES if candidate.is_pipeline]
    operators = {}
    if wanted.operators:
        from latency_predictors.operators import find_operators

        meta = unet if next(unet.parameters()).is_meta else teacher_shapes(wanted.teacher).unet
        operators = find_operators(Subjects(meta, unet_space, size, tokens, text_width(unet.config)))
        names += operators
    context = {"teacher_key": key, "space": space.name, "latent_size": size, "num_tokens": tokens}
    networks = tuple(dict.fromkeys(candidate.unet.id for candidate in candidates))
    return Plan(tuple(dict.fromkeys(names)), TeacherGraphs(subjects, vae, operators), context, networks=networks)


def unet_of(space: SearchSpace) -> SearchSpace:
    """The space of a pipeline space's U-Nets; a space of U-Nets itself."""
    from search_spaces.space import SearchSpace
    from search_spaces.vae_option import STEPS, VAE_STAGES

    if not space.is_pipeline:
        return space
    beyond = (*VAE_STAGES, STEPS)
    return SearchSpace(name=space.name, options={s: o for s, o in space.choices.items() if s not in beyond})


def _chosen(option: str, text: str, known: Sequence[str]) -> list[str]:
    if text == "all":
        return list(known)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in known:
            shown = ", ".join(known[:8]) + (f" ... ({len(known)} in all)" if len(known) > 8 else "")
            raise UserError(f"{option} {name}: no such subject; legal are all, {shown}")
    return asked


def _candidates(wanted: Wanted, space: SearchSpace) -> list[Any]:
    import numpy as np

    from search_spaces.candidate import Candidate

    found = []
    for text in wanted.candidates:
        if text in space.candidates:
            found.append(space.named(text))
        else:
            candidate = Candidate.from_id(text, space.stages)
            space.encode(candidate)
            found.append(candidate)
    if wanted.random:
        if wanted.random > space.num_candidates:
            raise UserError(
                f"--random {wanted.random}: {space.name!r} has {space.num_candidates} candidates; give fewer"
            )
        rng = np.random.default_rng(wanted.seed)
        drawn: dict[str, Candidate] = {}
        while len(drawn) < wanted.random:
            for row in space.sample(rng, wanted.random):
                candidate = space.decode(row)
                if len(drawn) < wanted.random:
                    drawn.setdefault(candidate.id, candidate)
        found += drawn.values()
    return found
