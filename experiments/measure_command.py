"""`nanosd measure`: latencies of blocks, whole networks and single operators, as a file to calibrate from."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from experiments.measure_output import show
from experiments.option_text import options_of
from experiments.output import print_json
from search_spaces.errors import UserError
from search_spaces.places import check_folder

if TYPE_CHECKING:
    from latency_predictors.manifest import Manifest
    from latency_predictors.measurement import Measurement
    from latency_predictors.runners import RunnerSpec
    from nas.measure_plan import Plan

_SECONDS_EACH = 0.7
_YEAR_S = 365 * 24 * 3600
_FILES = ("measurements.jsonl", "measurements.csv", "manifest.json")


def measure(
    blocks: Annotated[
        str | None, typer.Option(metavar="all|E1/RA,...", help="Stage options; all: every one, and the base.")
    ] = None,
    candidates: Annotated[
        list[str] | None, typer.Option("--candidates", metavar="ID", help="Whole networks by id or name; repeatable.")
    ] = None,
    random: Annotated[int, typer.Option(min=0, help="This many random candidates of the space.")] = 0,
    vae: Annotated[
        str | None, typer.Option(metavar="all|VD/teacher,...", help="Halves of the VAE, of a space of pipelines.")
    ] = None,
    operators: Annotated[
        bool, typer.Option("--operators", help="The distinct convolutions, linear layers, norms and attentions.")
    ] = False,
    onnx: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="ONNX files as they are; repeatable.")] = None,
    teacher: Annotated[str, typer.Option(help="Bundled name, diffusers folder or hub id.")] = "toy",
    space: Annotated[str, typer.Option(help="Search-space preset or YAML file.")] = "nanosd",
    runner: Annotated[str, typer.Option(help="What measures; an unknown name lists them.")] = "onnxruntime-cpu",
    threads: Annotated[int | None, typer.Option(help="Threads of one run, 1 to 1024.")] = None,
    precision: Annotated[
        Literal["float32", "float16", "w8a8", "w8a16"] | None, typer.Option(help="What graphs are turned into first.")
    ] = None,
    cores: Annotated[str | None, typer.Option(metavar="0,1", help="Cores to stay on.")] = None,
    soc: Annotated[str | None, typer.Option(help="With --runner qnn: the SoC to compile for.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Another option of the runner; repeatable.")
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(help="Of timed passes, for all subjects; exports and loading come on top. Else 0.7 s a subject."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(help="Longest load or run; what takes longer has failed.")] = 300.0,
    prepare_timeout_s: Annotated[
        float, typer.Option(help="Longest quantisation (or other change of precision) of one graph.")
    ] = 1800.0,
    seed: Annotated[int, typer.Option(min=0, help="Of random candidates and the order of runs.")] = 0,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Read the teacher's shapes only: its weights need not be there.")
    ] = False,
    latent_size: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of the latents; without it the teacher's.")
    ] = None,
    num_tokens: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Of the text; without it the teacher's.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    check: Annotated[bool, typer.Option(help="With --runner qnn: emulate, to check the numerics.")] = True,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")] = Path(
        "runs/measure"
    ),
    list_: Annotated[bool, typer.Option("--list", help="Say what would be measured, and how long about.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Measure blocks, whole networks, operators or ONNX files; what is finished is kept and not repeated."""
    from latency_predictors.runners import RunnerSpec, runner_options
    from nas.measure_plan import Wanted, plan
    from nas.quiet import quiet

    given: dict[str, Any] = {"threads": threads, "precision": precision, "soc": soc, "cores": _cores(cores)}
    options = options_of(runner, given, option or [])
    runner_options(runner, options)
    spec = RunnerSpec(name=runner, options=options)
    if not list_:
        spec.make()  # what it refuses is said before anything is loaded
        check_folder(out, "--out", () if runner == "qnn" else _FILES)
    if max_seconds is not None:
        _seconds("--max-seconds", max_seconds, 0.001)
    _seconds("--timeout-s", timeout_s, 1)
    _seconds("--prepare-timeout-s", prepare_timeout_s, 1)
    wanted = Wanted(
        teacher=teacher,
        space=space,
        blocks=blocks,
        vae=vae,
        candidates=tuple(candidates or ()),
        random=random,
        seed=seed,
        operators=operators,
        onnx=tuple(onnx or ()),
        random_weights=random_weights,
        latent_size=latent_size,
        num_tokens=num_tokens,
    )
    quiet()
    planned = plan(wanted, only_names=list_)
    seconds = max_seconds or _SECONDS_EACH * len(planned.names)
    if list_:
        facts = {"subjects": list(planned.names), "about_seconds": seconds, "writes": out}
        if json:
            print_json(facts)
        else:
            print("\n".join(planned.names))
            about = f"about {seconds:.0f} s of timed passes, and the export and loading of each"
            print(f"{len(planned.names)} subjects, {about}; to {out}")
        return
    if runner == "qnn":
        from experiments.measure_qnn import compile_all

        compile_all(planned, spec, out, check=check, json=json, seed=seed)
        return
    settings = {
        "max_seconds": seconds / len(planned.names),
        "timeout_s": timeout_s,
        "prepare_timeout_s": prepare_timeout_s,
        "seed": seed,
    }
    manifest, measured = run(planned, spec, settings, out, retry_failed=retry_failed)
    show(manifest, measured, planned.networks, out, json=json)


def run(
    planned: "Plan", spec: "RunnerSpec", settings: dict[str, Any], out: Path, *, retry_failed: bool = False
) -> tuple["Manifest", dict[str, "Measurement"]]:
    """Measure what is planned; write measurements.jsonl as it goes, then measurements.csv and manifest.json.

    Raises:
        UserError: `out` holds measurements of something else, or nothing could be measured.
    """
    from latency_predictors.journal import Journal
    from latency_predictors.measurement_csv import as_csv
    from latency_predictors.measuring import GroupSettings, measure_all
    from nas.atomic import ensure_writable, write_bytes, write_json
    from nas.folder_lock import folder_lock
    from nas.progress import Progress
    from nas.run.phases import step_counter

    made = spec.make()
    facts = {"device": made.device, "runtime": made.runtime, "precision": made.precision, "threads": made.threads}
    ensure_writable(out)
    with folder_lock(out, f"--out {out}"):
        journal = Journal(out / "measurements.jsonl", {**planned.context, **facts, "options": spec.context})
        journal.identify(planned.digests)
        if retry_failed:
            journal.retry(planned.names)
        with Progress().phase("measure", len(planned.names)) as phase:
            manifest = measure_all(
                planned.names,
                planned.graphs,
                spec,
                GroupSettings(**settings),
                journal,
                out / "graphs",
                step_counter(phase),
            )
        measured = journal.measurements()
        if manifest is None or not measured:
            reason = next(iter(journal.failed.values()), "nothing was measured")
            raise UserError(f"no subject could be measured ({len(journal.failed)} failed): {reason}")
        write_bytes(out / "measurements.csv", as_csv(measured, manifest.versions).encode())
        write_json(out / "manifest.json", manifest.model_dump(mode="json"))
    return manifest, {name: measured[name] for name in planned.names if name in measured}


def _cores(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--cores {text}: not whole numbers with commas between, such as 0,1") from None


def _seconds(option: str, value: float, least: float) -> float:
    if not least <= value <= _YEAR_S:  # NaN neither
        raise UserError(f"{option} {value:g}: not legal; give seconds, {least:g} to {_YEAR_S:,} (a year)")
    return value
