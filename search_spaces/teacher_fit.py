"""Whether a search-space file fits a teacher: every problem with the line of the value that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from search_spaces.decisions import UNetDecisions, VaeDecisions
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import first_of, parse_document, read_space
from search_spaces.stage_option import Internals, option_text
from search_spaces.stages import check_supported, parse_option, stage_names, teacher_word
from search_spaces.unet import UNet
from search_spaces.vae import VAE, check_vae_supported
from search_spaces.vae import parse_option as parse_vae_option
from search_spaces.vae_option import STEPS, VAE_STAGES
from search_spaces.yaml_lines import Path

Problem = tuple[Path, str]


def load_fitting_space(name_or_path: str, unet: UNet, vae: VAE) -> SearchSpace:
    """A preset or a YAML file's search space, every option of which can be built from a teacher.

    Accepts what :func:`search_spaces.costs.check_space` accepts; what is refused is named with its line.

    Args:
        name_or_path: as for :func:`search_spaces.space_file.load_space`.
        unet: the teacher's U-Net, on any device.
        vae: the teacher's VAE, on any device.

    Raises:
        UserError: a file that is wrong or does not fit: its first problem with file and line, and how many more there
            are; or a teacher that cannot be cut into stages.
    """
    document, space = parse_document(*read_space(name_or_path))
    check_supported(unet)
    if space.is_pipeline:
        check_vae_supported(vae)
    problems = [*_of_space(space, unet, vae)]
    if problems:
        raise first_of(document, problems)
    return space


def _of_space(space: SearchSpace, unet: UNet, vae: VAE) -> Iterator[Problem]:
    own = stage_names(unet)
    expected = (*own, *VAE_STAGES, STEPS) if space.is_pipeline else own
    if space.stages != expected:
        yield ("options",), f"options: stages are {' '.join(space.stages)}; this teacher's are {' '.join(expected)}"
        return
    for stage in expected[: expected.index(STEPS)] if space.is_pipeline else expected:
        yield from _of_stage(stage, space, unet, vae)


def _of_stage(stage: str, space: SearchSpace, unet: UNet, vae: VAE) -> Iterator[Problem]:
    def refused(name: str) -> str | None:
        """Why the teacher cannot give an option, or does under another name."""
        try:
            canonical = (
                parse_vae_option(vae, stage, name) if stage in VAE_STAGES else parse_option(unet, stage, name)
            ).text
        except UserError as error:
            return str(error)
        return None if canonical == name else f"{stage}: write option {name!r} as {canonical!r}"

    first = next(((name, why) for name in space.options[stage] if (why := refused(name))), None)
    if first is None:
        return
    choices = space.choices[stage]
    if isinstance(choices, UNetDecisions):
        found = [*_of_decisions(stage, choices, refused, teacher_word(unet, stage))]
    elif isinstance(choices, VaeDecisions):  # whose only problem can be the number of levels
        found = [(("options", stage, "width"), _of_key(stage, "width", first[1].replace(f"{first[0]!r} ", "")))]
    else:
        found = [*_of_list(stage, choices, refused)]
    yield from found or [(("options", stage), first[1])]


def _of_list(stage: str, names: Sequence[str], refused: Callable[[str], str | None]) -> Iterator[Problem]:
    for number, name in enumerate(names):
        why = refused(name)
        if why is not None:
            named = why if repr(name) in why else f"{stage}: {name!r}: {why.removeprefix(f'{stage}: ')}"
            yield ("options", stage, number), named


def _of_decisions(
    stage: str, choices: UNetDecisions, refused: Callable[[str], str | None], own: str
) -> Iterator[Problem]:
    """Values that are refused by themselves: words as they are, internals in the words that fit."""
    fitting = []
    for number, word in enumerate(choices.word):
        why = refused(word)
        if why is None:
            fitting.append(word)
        else:
            yield ("options", stage, "word", number), why
    for key in ("resnet_width", "ff_width", "heads", "attention", "conv"):
        values: Sequence[Any] = getattr(choices, key)
        for number, value in enumerate(values):
            names = [option_text(word, Internals(**{key: value})) for word in fitting or [own]]
            why = next((why for name in names if (why := refused(name))), None)
            if why is not None:
                yield ("options", stage, key, number), _of_key(stage, key, why)


def _of_key(stage: str, key: str, why: str) -> str:
    """What is wrong with a stage, said of one of its decisions."""
    return f"{stage}.{key}: {why.removeprefix(f'{stage}: ').removeprefix(f'{key} ')}"
