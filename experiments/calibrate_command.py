"""`nanosd calibrate`: a device profile from measurements of this machine, of another, or from less; and its verdict."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from experiments.calibrate_options import LOCAL, check_options, stated, ways
from experiments.calibration_output import evaluation_page, show, show_evaluation
from experiments.option_text import options_of
from experiments.output import print_json, print_mapping, say
from nas.overwriting import refuse_other_file, refuse_overwriting, refuse_run_files
from search_spaces.errors import UserError
from search_spaces.places import check_file, check_folder

if TYPE_CHECKING:
    from latency_predictors.runners import RunnerSpec
    from nas.calibration.given import Given
    from nas.calibration.proposing import Outcome, Plan
    from nas.calibration.target import Target
    from nas.config import Recipe

#: Exit code when measurements are asked for: neither done nor an error.
WAITING = 3
_PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_HERE = "onnxruntime-cpu"


def calibrate(
    context: typer.Context,
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="More files for --from.")] = None,
    out: Annotated[Path | None, typer.Option(help="Device profile (JSON) to write; with --evaluate the page.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="Recipe (YAML); without one, its defaults.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field; repeatable.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Bundled name, diffusers folder or hub id; without weights also sd15.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search-space preset or YAML file.")] = None,
    latent_size: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of the latents; else the teacher's.")
    ] = None,
    num_tokens: Annotated[int | None, typer.Option(min=1, max=4096, help="Of the text; else the teacher's.")] = None,
    from_: Annotated[
        list[Path] | None, typer.Option("--from", metavar="FILE", help="Measurement file; repeatable.")
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Of the files; else told from their content.")] = None,
    subject: Annotated[str | None, typer.Option(help="What the one measurement of a file is of.")] = None,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Leave out rows whose subject is nothing of the space.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="Name of the device; local: this machine.")] = None,
    runtime: Annotated[str | None, typer.Option(help="Runtime of the measurements.")] = None,
    precision: Annotated[str | None, typer.Option(help="Precision of the measurements, such as w8a16.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the measurements.")] = None,
    runner: Annotated[
        str | None, typer.Option(help="What measures a device at hand, such as adb; as of nanosd measure.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the runner; repeatable.")
    ] = None,
    toolchain: Annotated[str | None, typer.Option(help="Compiler or exporter of the measurements.")] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(metavar="MS", help="Latency of the largest candidate, or CANDIDATE=MS; repeatable."),
    ] = None,
    spec: Annotated[
        list[str] | None, typer.Option(metavar="FILE|RATE=X", help="Spec sheet: rates of the device; repeatable.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(metavar="PROFILE", help="Another device's profile to learn from; repeatable.")
    ] = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Choose what to measure, so many blocks and U-Nets in all.")
    ] = None,
    target_error: Annotated[
        float | None, typer.Option(min=0, help="Median leave-one-out error in per cent that ends it sooner.")
    ] = None,
    measure: Annotated[
        Literal["blocks", "candidates", "both"], typer.Option(help="What may be chosen.")
    ] = "candidates",
    batch: Annotated[int, typer.Option(min=1, help="How many are chosen at a time.")] = 10,
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the ONNX files of what is to be measured.")
    ] = None,
    evaluate: Annotated[
        Path | None, typer.Option(metavar="PROFILE", help="Judge a profile on a page beside it, or at --out.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Make a device profile, which predicts any candidate's latency.

    With --out alone every stage option is measured on this machine. --from imports measurements, --anchor and --spec
    make do with less, --budget chooses what to measure, --evaluate says how good a profile is.
    """
    files = [*(from_ or []), *(more or [])]
    if more and not from_:
        raise UserError(f"{more[0]}: what is this file? write --from {more[0]}")
    _check_runner(runner, option, device, budget, runtime)
    found = ways(stated(context), device, runner)
    check_options(context, found)
    inputs: list[tuple[str, str | Path | None]] = [("--from", file) for file in files]
    inputs += [("--config", config), ("--space", space), ("--evaluate", evaluate)]
    inputs += [("--spec", text) for text in spec or ()] + [("--source", text) for text in source or ()]
    if export is not None:
        check_folder(export, "--export")
    if evaluate is not None:
        page = out or evaluation_page(evaluate)
        refuse_overwriting(page, inputs)
        refuse_run_files(page)
        refuse_other_file(page, (".html", ".htm"), "page")
        check_file(page, "--out")
        show_evaluation(evaluate, page, json)
        return
    if out is None:
        raise UserError("calibrate: no --out; give the path of the profile to write, or --evaluate PROFILE")
    refuse_overwriting(out, inputs)
    check_file(out, "--out")
    _check_is_profile(out)
    precision = _PRECISIONS.get((precision or "").lower(), precision)
    overrides: dict[str, str | int | None] = {"teacher": teacher, "space": space}
    if "everything" in found:
        overrides |= {"calibration.threads": threads, "calibration.precision": precision}
        recipe = _recipe(config, set_, overrides)
        _measure_everything(recipe, out, dry_run, json)
        return
    recipe = _recipe(config, set_, overrides)
    _prepare()
    from nas.calibration.given import Given
    from nas.calibration.target import Target

    here = device == LOCAL or runner is not None
    if here and budget is not None:
        check_folder(out.with_name(out.name + ".work"), "measurements of --out in")
    facts: dict[str, str | int | None] = {
        "device": None if here else device,
        "runtime": runtime,
        "precision": precision,
        "threads": threads,
        "toolchain": toolchain,
    }
    if here and budget is None:
        from latency_predictors.measurement import cpu_name

        facts["device"] = cpu_name()
    given = Given(files, format_, subject, facts, anchor or (), spec or (), source or (), skip_unknown)
    target = Target.of(recipe.space, recipe.teacher, latent_size, num_tokens)
    if budget is None:
        _import(given, target, out, json)
        return
    from nas.calibration.proposing import Plan

    plan = Plan(budget, target_error, measure, batch)
    if here:
        outcome = _measure_here(
            given, target, plan, out, recipe, _runner(recipe, runner or runtime, option, threads, precision)
        )
    else:
        from nas.calibration.proposing import ask
        from nas.calibration.work import sole_writer

        with sole_writer(out):
            outcome = ask(given, target, plan, out, export)
    _end(outcome, plan, out, json)


def _check_is_profile(out: Path) -> None:
    """What is at --out already may be a profile of this command's own, and nothing else."""
    if out.exists():
        from latency_predictors.profile_file import read_device_profile

        refuse_run_files(out)
        try:
            read_device_profile(out)
        except UserError as error:
            raise UserError(f"--out {out}: holds something else; give another --out ({error})") from None


def _import(given: "Given", target: "Target", out: Path, json: bool) -> None:
    from nas.calibration.given import fit, read
    from nas.calibration.spec import remarks
    from nas.calibration.work import sole_writer

    if not given.is_anything():
        raise UserError("calibrate: nothing to make a profile of; give --from, --anchor or --spec, or --budget")
    with sole_writer(out):
        known = read(given, target)
        for line in known.lines:
            say(line)
        profile = fit(given, target, known)
        for line in remarks(given.spec, profile):
            say(f"warning: {line}")
        profile.save(out)
    show(profile, out, json)


def _measure_here(
    given: "Given",
    target: "Target",
    plan: "Plan",
    out: Path,
    recipe: "Recipe",
    runner: "RunnerSpec",
) -> "Outcome":
    from latency_predictors.measuring import GroupSettings
    from nas.calibration.measuring import measure
    from nas.progress import Progress

    wanted = recipe.calibration
    settings = GroupSettings(
        warm_up=wanted.warm_up, min_repeats=wanted.min_repeats, max_seconds=wanted.max_seconds / plan.budget
    )
    return measure(given, target, plan, out, runner, settings, Progress())


def _check_runner(
    name: str | None, options: list[str] | None, device: str | None, budget: int | None, runtime: str | None
) -> None:
    given = f"--runner {name}" if name is not None else f"--option {options[0]}" if options else None
    if given is None:
        return
    if budget is None:
        raise UserError(f"{given}: measures what --budget chooses; add --budget 10")
    if device not in (None, LOCAL):
        raise UserError(f"{given}: --device {device} would not be measured; write --device local, its name is read")
    if name is None and device is None:
        raise UserError(f"{given}: of which runner? add --runner NAME, or --device local")
    if name is not None and runtime is not None:
        raise UserError(f"--runtime {runtime}: --runner {name} says what runtime it is; leave --runtime out")


def _runner(
    recipe: "Recipe", name: str | None, texts: list[str] | None, threads: int | None, precision: str | None
) -> "RunnerSpec":
    """The runner of a device at hand; what is not given is the recipe's on this machine, else the runner's own."""
    from latency_predictors.runners import RunnerSpec, runner_options

    wanted: dict[str, Any] = {}
    if name in (None, _HERE):
        name = _HERE
        wanted = {
            "threads": threads or recipe.calibration.threads,
            "precision": precision or recipe.calibration.precision,
        }
    options = wanted | options_of(name, {"threads": threads, "precision": precision}, texts or [])
    runner_options(name, options)
    return RunnerSpec(name=name, options=options)


def _measure_everything(recipe: "Recipe", out: Path, dry_run: bool, json: bool) -> None:
    """Every block of the space and some whole U-Nets, on this machine."""
    _prepare()
    check_folder(out.with_name(out.name + ".work"), "measurements of --out in")
    if dry_run:
        plan = _calibration_plan(recipe, out)
        print_json(plan) if json else print_mapping(plan)
        return
    from nas import run as loop
    from nas.progress import Progress

    show(loop.calibrate(recipe, out, Progress()), out, json)


def _end(outcome: "Outcome", plan: "Plan", out: Path, json: bool) -> None:
    """Says how a call with a budget ended; leaves with WAITING when measurements are asked for."""
    for line in outcome.lines:
        say(line)
    extra: dict[str, Any] = {"ended": outcome.reason, "to_measure": list(outcome.pending), "file": outcome.file}
    if outcome.profile is not None:
        show(outcome.profile, out, json, extra)
    elif json:
        print_json(extra)
    if not json:
        if outcome.pending:
            print(f"to measure ({len(outcome.pending)}): {', '.join(outcome.pending)}")
        print(outcome.reason)
    if outcome.pending:
        raise typer.Exit(WAITING)


def _prepare() -> None:
    from nas.quiet import quiet

    quiet()


def _recipe(config: Path | None, overrides: list[str] | None, fields: dict[str, str | int | None]) -> "Recipe":
    from nas.config import load_recipe

    # As JSON, which is YAML in quotes: a folder called 15 stays text.
    given = [f"{key}={dumps(value)}" for key, value in fields.items() if value is not None]
    return load_recipe(config, [*(overrides or []), *given])


def _calibration_plan(recipe: "Recipe", out: Path) -> dict[str, object]:
    from nas.run.context import check_unet_space
    from search_spaces.space_file import load_space

    space, settings = load_space(recipe.space), recipe.calibration
    check_unet_space(space)
    return {
        "stage_options": sum(len(space.options[stage]) for stage in space.stages),
        "whole_unets": settings.num_fit + settings.num_check,
        "about_seconds": settings.max_seconds,
        "writes": out,
    }
