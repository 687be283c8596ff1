"""`nanosd space`: look at a search space, start one for a teacher, print the schema of their files."""

from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from experiments.output import print_json, print_mapping, print_rows
from search_spaces.errors import UserError

space_app = typer.Typer(help="Look at a search space, or start one for a teacher.")

Space = Annotated[str, typer.Argument(metavar="SPACE", help="Search-space preset or YAML file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


@space_app.command("show")
def show(
    space: Space,
    teacher: Annotated[
        str | None, typer.Option(help="Check every option against it: bundled name, diffusers folder or hub id.")
    ] = None,
    json: Json = False,
) -> None:
    """List decisions, their values, how many networks they make, and the named candidates."""
    from search_spaces.space_file import load_space

    loaded = load_space(space)
    if teacher is not None:
        _check(space, teacher)
    facts: dict[str, object] = {
        "name": loaded.name,
        "description": loaded.description,
        "of": "whole pipelines" if loaded.is_pipeline else "U-Nets",
        "num_candidates": loaded.num_candidates,
        "num_decisions": len(loaded.free_decisions),
    }
    if teacher is not None:
        facts["fits_teacher"] = teacher
    if json:
        stages = [
            {
                "stage": stage,
                "num_options": len(loaded.options[stage]),
                "decisions": {d.name: [_plain(v) for v in d.values] for d in loaded.decisions if d.stage == stage},
            }
            for stage in loaded.stages
        ]
        print_json({**facts, "stages": stages, "candidates": loaded.candidates})
        return
    # Counts in full: how large a space is has no natural unit.
    print_mapping({**facts, "num_candidates": f"{loaded.num_candidates:,}"})
    first = {stage: next(d.name for d in loaded.decisions if d.stage == stage) for stage in loaded.stages}
    print_rows(
        [
            {
                "decision": decision.name,
                "values": ", ".join(decision.values),
                "options of the stage": str(len(loaded.options[decision.stage]))
                if decision.name == first[decision.stage]
                else "",
            }
            for decision in loaded.decisions
        ]
    )
    if loaded.candidates:
        print_rows([{"name": name, "candidate": text} for name, text in loaded.candidates.items()])


@space_app.command("new")
def new(
    teacher: Annotated[str, typer.Option(help="Bundled name, diffusers folder or hub id.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="New file; else it is printed.")
    ] = None,
) -> None:
    """Write a commented search space for a teacher: its own words, smaller ones, and what else may be chosen."""
    if out is not None and out.exists():
        raise UserError(f"{out}: is there already; give a new file")
    from nas.quiet import quiet

    quiet()
    from nas.teacher import load_shapes
    from search_spaces.starting_space import starting_space

    unet, vae = load_shapes(teacher)
    text = starting_space(unet, vae, out.stem if out else Path(teacher).name)
    if out is None:
        print(text, end="")
        return
    from nas.atomic import write_bytes

    write_bytes(out, text.encode())
    print(out)


@space_app.command("schema")
def schema() -> None:
    """Print the JSON schema of search-space files, for editors and for checks elsewhere."""
    from search_spaces.schema import json_schema

    print(dumps(json_schema(), indent=2))


def _plain(value: str) -> str | int | float:
    """A width, depth or number of steps as a number, a word as it is."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _check(space: str, teacher: str) -> None:
    from nas.quiet import quiet

    quiet()
    from nas.teacher import load_shapes
    from search_spaces.teacher_fit import load_fitting_space

    load_fitting_space(space, *load_shapes(teacher))
