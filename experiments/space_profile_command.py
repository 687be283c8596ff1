"""`nanosd space profile`: what a search space reaches, as tables in the terminal and as a page."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from experiments.output import print_json, print_rows
from search_spaces.errors import UserError
from search_spaces.precision import Precision

# A measurement's words for what costs count bytes of.
_PRECISIONS = {
    "float32": Precision.FP32,
    "float16": Precision.FP16,
    "bfloat16": Precision.FP16,
    "w8a16": Precision.W8A16,
    "w8a8": Precision.W8A8,
}
# Also those of costs themselves, which NPU profiles use.
_PRECISIONS |= {precision.value: precision for precision in Precision}
MaxOf = typer.Option(min=0, help="Count the candidates with at most this.")


def profile(
    space: Annotated[str, typer.Argument(help="Search-space preset or YAML file.")] = "nanosd",
    teacher: Annotated[str, typer.Option(help="Bundled name, diffusers folder, hub id or sd15.")] = "toy",
    device: Annotated[
        str | None,
        typer.Option(help="Device profile (JSON), or a shipped one such as sm8750-w8a16: adds predicted latency."),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option(help="For bytes; without it the device profile's, or w8a16.")
    ] = None,
    latent_size: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of the latents; without it the teacher's.")
    ] = None,
    num_tokens: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Of the text; without it the teacher's.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Samples in one forward pass.")] = 1,
    max_params: Annotated[float | None, MaxOf] = None,
    max_macs: Annotated[float | None, MaxOf] = None,
    max_weight_bytes: Annotated[float | None, MaxOf] = None,
    max_traffic_bytes: Annotated[float | None, MaxOf] = None,
    max_peak_bytes: Annotated[float | None, MaxOf] = None,
    max_latency_ms: Annotated[float | None, MaxOf] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Page (HTML) to write; default: the name of the space, here.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
) -> None:
    """Say what a space reaches: range of every cost, candidates within budgets, what each stage takes."""
    from nas.quiet import quiet

    quiet()
    from nas.latency import DeviceLatency, device_facts
    from nas.report.space_page import (
        between,
        budget_title,
        candidates_within,
        latency_sentences,
        looked_at,
        share_within,
        title,
        write_space_page,
        written,
    )
    from nas.space_profile import profile_space
    from nas.teacher import load_teacher
    from nas.teacher_shapes import SD15, networks, num_tokens_of
    from search_spaces.costs import CostTable
    from search_spaces.space_file import load_space

    chosen = load_space(space)
    unet, vae = networks(teacher)
    size = latent_size or unet.config.sample_size
    if isinstance(size, list):
        size = tuple(size)
    if not isinstance(size, int) and not (isinstance(size, tuple) and len(size) == 2):
        raise UserError(
            f"teacher {teacher!r}: sample_size {size!r} of its U-Net is no latent size; give one with --latent-size"
        )
    tokens = num_tokens or num_tokens_of(teacher)
    latency = None
    if device is not None:
        from latency_predictors.profile import DeviceProfile
        from latency_predictors.profile_file import load_profile

        found_profile = load_profile(device)
        measured = _PRECISIONS.get(found_profile.precision)
        if measured is None:
            raise UserError(
                f"device profile {device}: precision {found_profile.precision!r} has no known bytes; legal are "
                f"{', '.join(_PRECISIONS)}; leave --device out"
            )
        needed: list[tuple[str, object, object]] = [("--precision", precision or measured, measured)]
        needed.append(("--batch", batch, 1))
        if isinstance(found_profile, DeviceProfile):
            needed.append(("--num-tokens", tokens, found_profile.num_tokens))
            key = None if teacher == SD15 else load_teacher(teacher).key  # shapes alone have none
            found_profile.check(chosen, key, size if isinstance(size, int) else None)
        for name, given, legal in needed:
            if given != legal:
                raise UserError(
                    f"{name} {given}: the profile of {found_profile.device} holds for {legal}; leave {name} out, or "
                    "--device"
                )
        precision = measured
        if not isinstance(size, int):
            raise UserError(f"--device: latents of {size[0]} x {size[1]} have no profile; give one --latent-size")
        latency = DeviceLatency(
            device_facts(found_profile), found_profile.tabulate(unet, chosen, size, tokens, vae=vae)
        )
    table = CostTable.from_unet(unet, chosen, size, tokens, batch, vae=vae)
    budgets: Mapping[str, float | None] = {
        "num_params": max_params,
        "num_macs": max_macs,
        "weight_bytes": max_weight_bytes,
        "traffic_bytes": max_traffic_bytes,
        "peak_bytes": max_peak_bytes,
        "latency_ms": max_latency_ms,
    }
    found = profile_space(
        table,
        precision or Precision.W8A16,
        latency,
        {name: limit for name, limit in budgets.items() if limit is not None},
    )
    page = write_space_page(found, out or Path(f"{chosen.name}.html"))
    if json:
        print_json({**dataclasses.asdict(found), "page": page})
        return
    print(f"{found.space} ({found.precision.value}). {looked_at(found)}")
    print("\n".join(latency_sentences(found)))
    print_rows(
        [
            {
                "cost": title(r.cost),
                **{
                    name: written(r.cost, value)
                    for name, value in {
                        "least": r.minimum,
                        "median": r.median,
                        "most": r.maximum,
                        "teacher": r.teacher,
                    }.items()
                },
            }
            for r in found.ranges
        ]
    )
    print_rows(
        [
            {
                "budget": budget_title(b),
                "at most": None if b.cost is None else written(b.cost, b.limit),
                "candidates within": candidates_within(b),
                "share": share_within(b, found.num_candidates),
                "candidate": b.example,
            }
            for b in found.budgets
        ]
    )
    print_rows(
        [
            {
                "stage": s.stage,
                "teacher's params": f"{100 * s.teacher_params:.1f} %",
                "teacher's MACs": f"{100 * s.teacher_macs:.1f} %",
                "teacher's latency": None if s.teacher_latency is None else f"{100 * s.teacher_latency:.1f} %",
                "options' params": between(s.smallest_option_params, s.largest_option_params),
                "options' MACs": between(s.smallest_option_macs, s.largest_option_macs),
            }
            for s in found.stages
        ]
    )
    print(f"page: {page}")
