"""The `nanosd` command. Bodies import what they need themselves, so that help and errors come at once."""

import os
import sys
from enum import StrEnum
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from experiments.baselines_command import baselines
from experiments.build_command import build
from experiments.calibrate_command import calibrate
from experiments.dashboard_command import dashboard
from experiments.distill_command import distill
from experiments.exits import resumable, run_app
from experiments.finalize_command import finalize
from experiments.measure_command import measure
from experiments.output import print_closing, print_json, print_mapping, print_rows, read_closing, records
from experiments.predict_command import predict
from experiments.proxy_command import proxy
from experiments.retarget_command import retarget
from experiments.runs import find_run
from experiments.simulate_command import simulate
from experiments.space_command import space_app
from experiments.space_profile_command import profile
from experiments.status_command import status
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.config import Recipe
    from nas.progress import Progress

app = typer.Typer(
    name="nanosd",
    help="Search for smaller, faster Stable Diffusion U-Nets on measured latency.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
teacher_app = typer.Typer(help="Look at a teacher, or write one with random weights.")
app.add_typer(teacher_app, name="teacher")
space_app.command("profile")(profile)
app.add_typer(space_app, name="space")


class Format(StrEnum):
    """What `nanosd export` can write."""

    DIFFUSERS = "diffusers"
    ONNX = "onnx"


Config = Annotated[Path | None, typer.Option("--config", help="Recipe (YAML); without one, its defaults.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field; repeatable.")]
Teacher = Annotated[str | None, typer.Option(help="Bundled name, diffusers folder or hub id.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on; without one, this machine.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would run, how long and how big; do nothing.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")]
MaxLatency = Annotated[float | None, typer.Option(help="Budget: largest latency in milliseconds.")]
MaxParams = Annotated[int | None, typer.Option(help="Budget: largest number of parameters.")]


@app.command()
def search(
    config: Config = None,
    set_: Set = None,
    teacher: Teacher = None,
    run: Annotated[Path | None, typer.Option(help="Run folder; without one, runs/<name of the recipe>.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run, in place of the recipe's.")] = None,
    address: Address = None,
    max_latency_ms: MaxLatency = None,
    max_params: MaxParams = None,
    reuse: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN", help="Take over trained blocks and evaluated candidates of another run; repeatable."
        ),
    ] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Run the whole loop: calibrate, distill, search, pick, align, export, report."""
    budgets = {"picks.max_latency_ms": max_latency_ms, "picks.max_params": max_params}
    extra = [f"{key}={value}" for key, value in budgets.items() if value is not None]
    if reuse:
        extra.append(f"reuse={dumps([str(find_run(text).resolve()) for text in reuse])}")
    recipe = _recipe(config, [*(set_ or []), *extra], teacher, name)
    run_dir = run or Path("runs") / recipe.name
    with resumable(run_dir):
        progress = _prepare()
        from nas import run as loop

        if dry_run:
            plan = loop.plan(recipe, run_dir)
            print_json(plan) if json else print_mapping(plan)
            return
        loop.search(recipe, run_dir, address, progress)
        _closing(run_dir, json)


@app.command()
def resume(run: Run, address: Address = None, json: Json = False) -> None:
    """Go on with a run that was stopped or killed; nothing finished is done twice."""
    run_dir = find_run(run)
    with resumable(run_dir):
        progress = _prepare()
        from nas import run as loop

        loop.resume(run_dir, address, progress)
        _closing(run_dir, json)


app.command()(status)
app.command()(dashboard)


@app.command()
def pareto(run: Run, json: Json = False) -> None:
    """List the front: the candidates that no other beats in fidelity, latency and parameters at once."""
    run_dir = find_run(run)
    _prepare()
    from nas import run as loop

    front, figure = loop.pareto(run_dir)
    if json:
        print_json({"front": front, "figure": figure})
    else:
        print_rows(records(front))
        print(f"figure: {figure}")


@app.command()
def pick(
    run: Run,
    rule: Annotated[
        Literal["fastest", "smallest", "prime", "budget"] | None,
        typer.Option(help="prime: the knee; budget: the most faithful within the budgets (the default with a budget)."),
    ] = None,
    max_latency_ms: MaxLatency = None,
    max_params: MaxParams = None,
    json: Json = False,
) -> None:
    """Choose one candidate of the front by a rule or under budgets."""
    run_dir = find_run(run)
    budget = max_latency_ms is not None or max_params is not None
    if rule == "budget" and not budget:
        raise UserError("--rule budget: no budget given; add --max-latency-ms or --max-params")
    _prepare()
    from nas import run as loop

    chosen = loop.pick(run_dir, rule or ("budget" if budget else "prime"), max_latency_ms, max_params)
    print_json(chosen) if json else print_mapping(chosen)


@app.command()
def export(
    run: Run,
    which: Annotated[str, typer.Argument(metavar="PICK", help="A pick's name (prime, fastest ...) or a candidate id.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format_: Annotated[list[Format] | None, typer.Option("--format", help="Repeatable; without it, all.")] = None,
    json: Json = False,
) -> None:
    """Write a pick as a diffusers folder and as ONNX."""
    run_dir = find_run(run)
    _prepare()
    from nas import run as loop

    written = loop.export(run_dir, which, out, tuple(each.value for each in format_ or Format))
    print_json(written) if json else print_mapping(written)


app.command()(predict)
app.command()(baselines)
app.command()(build)
app.command()(calibrate)
app.command()(distill)
app.command()(finalize)
app.command()(measure)
app.command()(proxy)
app.command()(retarget)
app.command()(simulate)


@teacher_app.command("random")
def teacher_random(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")],
    like: Annotated[Literal["sd15", "toy"], typer.Option(help="Whose shapes.")] = "sd15",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights.")] = 0,
) -> None:
    """Write a teacher with random weights in true shapes, for work on hardware."""
    _prepare()
    from nas.teacher import write_random_teacher

    write_random_teacher(like, folder, seed)
    print(folder)


@teacher_app.command("show")
def teacher_show(
    spec: Annotated[str, typer.Argument(help="Bundled name, diffusers folder or hub id.")], json: Json = False
) -> None:
    """Say what a teacher is: shapes, sizes, and the key that its blocks are banked under."""
    _prepare()
    from nas.teacher import load_teacher

    teacher = load_teacher(spec)
    parts = {"unet": teacher.unet, "vae": teacher.vae, "text_encoder": teacher.text_encoder}
    facts = {
        "teacher": teacher.spec,
        "folder": teacher.folder,
        "key": teacher.key,
        "latents": f"{teacher.latent_channels} x {teacher.latent_size} x {teacher.latent_size}",
        "tokens": teacher.num_tokens,
        "channels": list(teacher.unet.config.block_out_channels),
        "num_params": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
    }
    print_json(facts) if json else print_mapping(facts)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(installed("nanosd-nas"))
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point of `nanosd`."""
    # One OpenMP thread a process unless told otherwise: two threads on two busy cores are several times slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    code = run_app(app, sys.argv[1:])
    if session := sys.modules.get("nas.search.ray_session"):
        session.end_with(code)
    sys.exit(code)


def _prepare() -> "Progress":
    from nas.progress import Progress
    from nas.quiet import quiet

    quiet()
    return Progress()


def _recipe(config: Path | None, overrides: list[str], teacher: str | None, name: str | None) -> "Recipe":
    from nas.config import load_recipe

    named = {"teacher": teacher, "name": name}
    # As JSON, which is YAML in quotes: a folder called 15 stays text.
    return load_recipe(
        config, [*overrides, *(f"{key}={dumps(value)}" for key, value in named.items() if value is not None)]
    )


def _closing(run_dir: Path, json: bool) -> None:
    if json:
        print_json({"run": run_dir, "report": run_dir / "report.html", "rows": read_closing(run_dir)})
    else:
        print_closing(run_dir)


if __name__ == "__main__":
    main()
