"""`nanosd finalize`: a pick or candidate of a run with a small VAE, aligned with the teacher, as a variant folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.output import print_json, print_rows

if TYPE_CHECKING:
    from nas.run.finalize import Finalized

_OPTION = "`width x depth` a level (64x2.64x3.64x3.64x3), or teacher"


def finalize(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or its name under runs/.")],
    pick: Annotated[str | None, typer.Option(help="A pick of the run; default: prime.")] = None,
    candidate: Annotated[str | None, typer.Option(help="Any candidate of the run's space by its id instead.")] = None,
    vae_encoder: Annotated[
        str | None, typer.Option(metavar="OPTION", help=f"Encoder: {_OPTION}; default: the recipe's.")
    ] = None,
    vae_decoder: Annotated[
        str | None, typer.Option(metavar="OPTION", help=f"Decoder: {_OPTION}; default: the recipe's.")
    ] = None,
    vae_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the VAE's distillation; default: the recipe's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Steps of the alignment; default: the recipe's.")] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder; default: RUN/finalized/<name>.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Distil a small VAE, align it and a chosen U-Net with the whole teacher, and write the variant."""
    from experiments.runs import find_run
    from nas.progress import Progress
    from nas.quiet import quiet

    run_dir = find_run(run)
    quiet()
    from nas.run.finalize import Wanted
    from nas.run.finalize import finalize as make

    wanted = Wanted(pick, candidate, vae_encoder, vae_decoder, vae_steps, steps)
    made = make(run_dir, wanted, out, Progress())
    if json:
        print_json({"folder": made.folder, "aligned": made.aligned, "variant": made.variant.model_dump(mode="json")})
    else:
        print_finalized(made)


def print_finalized(made: "Finalized") -> None:
    """Print the table of before and after, the VAE's costs and quality, and where the variant is."""
    variant = made.variant
    before, after = variant.fidelity_before or {}, variant.fidelity_after or {}
    print_rows(
        [
            {
                "measure": name,
                "before": _with_interval(before[name], variant.intervals_before.get(name)),
                "after": _with_interval(after[name], variant.intervals_after.get(name)),
            }
            for name in before
            if name in after
        ]
    )
    if not made.aligned:
        print("the alignment did not bring it closer to the teacher; it has the weights from before")
    if variant.vae is not None:
        halves: list[tuple[str, Any]] = [("encoder", variant.vae.encoder), ("decoder", variant.vae.decoder)]
        print_rows(
            [
                {
                    "VAE": name,
                    "option": half.option,
                    "parameters": half.costs.num_params,
                    "of the teacher's": half.costs.num_params / half.teacher_costs.num_params,
                    "MACs": half.costs.num_macs,
                    "of its MACs": (half.costs.num_macs or 0) / (half.teacher_costs.num_macs or 1),
                }
                for name, half in halves
            ]
        )
        print_rows([{"held-out images": name, "value": value} for name, value in variant.vae.quality.items()])
    print(f"variant: {made.folder}")


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.4g}" + ("" if interval is None else f" ({interval[0]:.3g} to {interval[1]:.3g})")
