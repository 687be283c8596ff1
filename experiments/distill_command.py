"""`nanosd distill`: train the surrogate blocks of a recipe or a run, all or some, and nothing else of it."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.exits import resumable
from experiments.output import print_json, print_mapping, print_rows
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.config import Recipe
    from nas.distill.results import Block, BlockResult


def distill(
    what: Annotated[
        str | None,
        typer.Argument(metavar="[RECIPE|RUN]", help="Recipe (YAML), run folder or its name; default: the defaults."),
    ] = None,
    blocks: Annotated[
        str | None, typer.Option(metavar="E1/RA,D2/*", help="Only these blocks; `*` stands for any text.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field of a recipe; repeatable.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Bundled name, diffusers folder or hub id.")] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; without one, runs/<name of the recipe>.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run, in place of the recipe's.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster of distill.workers; without one, here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained; do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Train the surrogate blocks; `nanosd search` of the same recipe then trains none of them again."""
    overrides = list(set_ or [])
    overrides += [f"{k}={dumps(v)}" for k, v in (("teacher", teacher), ("name", name)) if v is not None]
    recipe, run_dir = _recipe_and_folder(what, overrides, run)
    with resumable(run_dir):
        from nas.progress import Progress
        from nas.quiet import quiet

        quiet()
        from nas import run as loop

        if dry_run:
            plan = loop.distill_plan(recipe, run_dir, blocks)
            print_json(plan) if json else print_mapping(plan)
            return
        results = loop.distill(recipe, run_dir, blocks, address, Progress())
    _print(results, recipe.distill.min_gain, run_dir, json)


def _recipe_and_folder(what: str | None, overrides: list[str], run: Path | None) -> "tuple[Recipe, Path]":
    from experiments.cli import find_run
    from nas.config import load_recipe

    if what is None or Path(what).is_file():
        recipe = load_recipe(what, overrides)
        return recipe, run or Path("runs") / recipe.name
    if Path(what).suffix in (".yaml", ".yml"):
        raise UserError(f"recipe {what}: there is no such file; give a recipe, a run, or nothing for the defaults")
    folder = find_run(what)
    if overrides or run is not None:
        raise UserError(f"{what} is a run, whose recipe stays as it is; leave --set, --teacher, --name and --run out")
    from nas.run.directory import RunDirectory

    return RunDirectory(folder).recipe(), folder


def _print(results: "dict[Block, BlockResult]", min_gain: float, run_dir: Path, json: bool) -> None:
    from nas.distill.results import little_gain

    little = little_gain(results, min_gain)
    rows: list[dict[str, Any]] = [
        {
            "block": f"{stage}/{option}",
            "num_params": result.num_params,
            "status": result.status,
            "num_steps": result.num_steps,
            "start_loss": result.start_loss,
            "end_loss": result.end_loss,
            "gain": result.gain,
            "kept": "inherited" if result.kept_inherited else None,
            "reason": result.reason,
        }
        for (stage, option), result in results.items()
    ]
    names = [f"{stage}/{option}" for stage, option in little]
    if json:
        print_json({"run": run_dir, "blocks": rows, "min_gain": min_gain, "little_gain": names})
        return
    print_rows(rows)
    if names:
        print(
            f"not worth keeping: {', '.join(names)} (loss fell by less than {min_gain:.0%}, distill.min_gain); "
            "leave them out of the search space, or train longer"
        )
    print(f"bank: {run_dir / 'bank'}")
