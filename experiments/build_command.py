"""`nanosd build`: the modules of a candidate, any time, without a search."""

from pathlib import Path
from typing import Annotated

import typer

from experiments.output import print_json, print_mapping


def build(
    candidate: Annotated[
        str,
        typer.Argument(help="Candidate id, JSON file with its options, or, with --space, a named candidate."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="New or empty folder to write.")],
    teacher: Annotated[str, typer.Option(help="Bundled name, diffusers folder or hub id.")] = "toy",
    space: Annotated[
        str | None, typer.Option(help="Search-space preset or YAML file that the candidate must be of.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights that the teacher has no counterpart of.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Write the U-Net and VAE of a candidate, with the teacher's weights where layers remain."""
    from nas.export.build import build_candidate, check_new_folder, find_candidate
    from nas.quiet import quiet

    check_new_folder(out)
    quiet()
    from nas.teacher import load_teacher
    from search_spaces.space_file import load_space

    preset = load_space(space) if space is not None else None
    source = load_teacher(teacher)
    built = build_candidate(source, find_candidate(candidate, source, preset), out, seed)
    facts = {"folder": out, **built.model_dump(mode="json")}
    if json:
        print_json(facts)
        return
    print_mapping(facts)
    print("\n".join(built.loading(out)))
