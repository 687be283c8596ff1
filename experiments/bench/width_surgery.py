"""How far slimmer stages are from the teacher's before any training.

    python -m experiments.bench.width_surgery [--teacher toy] [--images 64] [--json]

For every stage of the teacher and every kind of internals: the relative L2 error sqrt(sum (o - t)^2 / sum t^2) over
the stage's outputs, on features of real photographs (noised at random timesteps). Four ways to make the weights of
the same layers: by importance (ours); by the weights' magnitude, and the first channels, units and heads, with nothing
moved into biases; PyTorch's random initialisation of the layers that are cut, the others inherited. A separable
convolution has no first parts, and an attention that is dropped leaves nothing to initialise. The last line gives
geometric means. Exit code 0; 2: an error that you can mend.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.teacher import Teacher
    from search_spaces.unet import StageIO

#: Kinds of internals, as they are written after a word.
KINDS = (
    "w0.75", "w0.5", "w0.25", "f0.75", "f0.5", "f0.25", "h0.75", "h0.5", "h0.25",
    "cross", "self", "sep", "w0.5_f0.5_h0.5",
)  # fmt: skip
_WITHOUT_FIRST = ("sep",)
_WITHOUT_RANDOM = ("cross", "self")


@dataclass(frozen=True)
class Row:
    """Relative L2 errors of one option of a stage; ``None`` for what it has no counterpart of."""

    stage: str
    option: str
    importance: float
    magnitude: float | None
    first: float | None
    random: float | None


def measure(teacher: Teacher, num_images: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> list[Row]:
    """Errors of every (stage, kind of internals) that the teacher can have.

    Args:
        teacher: the teacher; its U-Net runs once, over all images.
        num_images: crops of the photographs, one timestep each.
        seed: of crops, timesteps, noise and random initialisation.
        kinds: internals, as they are written after a word.
    """
    from search_spaces.slimming import Selection
    from search_spaces.surgery import build_stage, parse_option, teacher_candidate

    record = recorded_features(teacher, num_images, seed)
    rows = []
    for stage, word in teacher_candidate(teacher.unet).options.items():
        for kind in kinds:
            try:
                option = parse_option(teacher.unet, stage, f"{word}_{kind}").text
            except UserError:
                continue  # a width that this stage's groups or heads do not divide
            errors = {}
            for selection in Selection:
                module = build_stage(teacher.unet, stage, option, copy=False, selection=selection, seed=seed)
                errors[selection] = _relative_error(module, record[stage])
            first = None if kind in _WITHOUT_FIRST else errors[Selection.FIRST]
            random = None if kind in _WITHOUT_RANDOM else errors[Selection.RANDOM]
            magnitude = None if kind in _WITHOUT_FIRST else errors[Selection.MAGNITUDE]
            rows.append(Row(stage, option, errors[Selection.IMPORTANCE], magnitude, first, random))
    return rows


def recorded_features(teacher: Teacher, num_images: int, seed: int) -> dict[str, StageIO]:
    """Inputs and outputs of every stage of the teacher, on noised latents of captioned crops of photographs."""
    import torch

    from nas.data import batches, photo_latents
    from nas.sampling import add_noise, alphas_cumprod
    from search_spaces.surgery import assemble, teacher_candidate

    batch = next(batches(photo_latents(teacher, num_images, seed), teacher, num_images, seed))
    noisy = add_noise(alphas_cumprod(teacher.scheduler.config), batch.latents, batch.noise, batch.timesteps)
    record: dict[str, StageIO] = {}
    with torch.no_grad():
        net = assemble(teacher.unet, teacher_candidate(teacher.unet), copy=False)
        net(noisy, batch.timesteps, batch.context, record=record)
    return record


def _relative_error(module: Any, io: StageIO) -> float:
    import torch

    with torch.no_grad():
        outputs = module(*io.inputs)
    error = sum(float((o - t).double().square().sum()) for o, t in zip(outputs, io.outputs, strict=True))
    return math.sqrt(error / sum(float(t.double().square().sum()) for t in io.outputs))


def summary(rows: Sequence[Row]) -> dict[str, float | int]:
    """Geometric means over the rows that have all four, and in how many of them importance is nearer than first."""
    chosen = [row for row in rows if row.first is not None and row.random is not None]
    means = {
        name: math.exp(sum(math.log(getattr(row, name)) for row in chosen) / len(chosen))
        for name in ("importance", "magnitude", "first", "random")
    }
    return {**means, "num_rows": len(chosen), "num_nearer": sum(row.importance < (row.first or 0) for row in chosen)}


def render(rows: Sequence[Row]) -> str:
    """The table as text for a terminal."""
    width = max(len(row.option) for row in rows)
    lines = [f"{'stage':<6}{'option':<{width}}{'importance':>12}{'magnitude':>11}{'first':>9}{'random':>9}"]
    for row in rows:
        others = "".join("-".rjust(9) if error is None else f"{error:>9.4f}" for error in (row.first, row.random))
        magnitude = "-".rjust(11) if row.magnitude is None else f"{row.magnitude:>11.4f}"
        lines.append(f"{row.stage:<6}{row.option:<{width}}{row.importance:>12.4f}{magnitude}{others}")
    means = summary(rows)
    named = ", ".join(f"{name} {means[name]:.4f}" for name in ("importance", "magnitude", "first", "random"))
    lines.append(
        f"{means['num_rows']} rows with all four, geometric means: {named}; importance nearer than first in "
        f"{means['num_nearer']}"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.bench.width_surgery",
        description="How far slimmer stages are from the teacher's before any training.",
    )
    parser.add_argument("--teacher", default="toy", help="bundled name, folder or hub id (default: %(default)s)")
    parser.add_argument("--images", type=int, default=64, help="crops of photographs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    from nas.teacher import load_teacher

    try:
        if options.images < 1:
            raise UserError(f"--images {options.images} is too few: legal are whole numbers from 1")
        rows = measure(load_teacher(options.teacher), options.images)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "summary": summary(rows)}, indent=1, allow_nan=False))
    else:
        print(render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
