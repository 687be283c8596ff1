"""Calibration within a budget: propose what tells most, measure it or have it measured, stop when it is enough."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_predictors.imported import subject_of
from latency_predictors.subject_names import graph_name
from nas.calibration.given import Given, Known, fit, read
from nas.calibration.spec import remarks
from nas.calibration.target import Target
from nas.overwriting import is_same_file
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from latency_predictors.choosing import Measure
    from latency_predictors.profile import DeviceProfile

_COLUMNS = ("subject", "latency_ms", "device", "runtime", "precision", "threads", "toolchain", "note")
#: Leave-one-out errors of fewer whole U-Nets do not end a calibration: they may be small by chance.
LEAST_JUDGED = 8


@dataclass(frozen=True)
class Plan:
    """How much to measure, and when to stop.

    Attributes:
        budget: blocks and whole U-Nets in all, those of earlier calls included.
        target_error_pct: median leave-one-out error on whole U-Nets that ends it before; None: the budget does.
        measure: what may be proposed.
        batch: proposals at a time.
    """

    budget: int
    target_error_pct: float | None
    measure: Measure
    batch: int


@dataclass(frozen=True)
class Outcome:
    """What a call ended with.

    Attributes:
        profile: None while there is nothing to fit.
        reason: why it ended, a sentence.
        pending: subjects that wait to be measured, in `file`.
        lines: to show to the user.
    """

    profile: DeviceProfile | None
    reason: str
    pending: tuple[str, ...] = ()
    file: Path | None = None
    lines: tuple[str, ...] = ()


def ask(given: Given, target: Target, plan: Plan, out: Path, export: Path | None = None) -> Outcome:
    """One round with a device that is not at hand: fits what is known, and writes what to measure next.

    The profile at `out` is what earlier calls learned; the file beside it (:func:`asking_file`) has a row for every
    proposal, keeps the rows that are filled in, and is given back with --from. A row of it that the import refused is
    still to be measured (`lines` say why).

    Raises:
        UserError: as `read`; or latencies in the file that were not given, which would be left out.
    """
    earlier = earlier_profile(out)
    known = _known(given, target, earlier)
    file = asking_file(out)
    filled, pending = _asked(file, target)
    done = set() if known is None else {*known.training.parts, *known.training.networks}
    refused = [name for name in filled if name not in done]
    if refused and not any(is_same_file(file, given_file) for given_file in given.files):
        raise UserError(f"{file} has a latency of {refused[0]} that was not read; add --from {file}")
    pending = [name for name in dict.fromkeys([*refused, *pending]) if name not in done]
    profile = None
    if known is not None and (done or given.spec):
        profile = fit(given, target, known)
        profile.save(out)
    lines = [] if known is None else list(known.lines)
    if profile is not None:
        lines += [f"warning: {line}" for line in remarks(given.spec, profile)]
    end = stop_reason(profile, len(done), plan)
    if end is not None:
        return Outcome(profile, end, lines=tuple(lines))
    num = min(plan.batch, plan.budget - len(done)) - len(pending)
    new = proposals(target, plan.measure, [*done, *pending], num)
    pending += new
    if not pending:
        return Outcome(profile, "everything that can be proposed is measured", lines=tuple(lines))
    facts = given.facts if known is None else vars(known.facts)
    _write(file, new, facts, export)
    if export is not None:
        for name in pending:
            export_graph(target, name, export)
    return Outcome(
        profile,
        f"{len(done)} of {plan.budget} measured; fill in latency_ms and run again with --from {file}",
        tuple(pending),
        file,
        tuple(lines),
    )


def stop_reason(profile: DeviceProfile | None, num_done: int, plan: Plan) -> str | None:
    """Why to stop, a sentence; None: go on."""
    judgement = None if profile is None else profile.judgement
    has_one = profile is not None and profile.num_networks == 1
    so_far = "one whole U-Net is measured, too few for an error" if has_one else "no whole U-Net is measured yet"
    if judgement is not None:
        so_far = f"median leave-one-out error {judgement.median_error_pct:.1f} % on {judgement.num} whole U-Nets"
        goal = plan.target_error_pct
        if goal is not None and judgement.num >= LEAST_JUDGED and judgement.median_error_pct <= goal:
            return f"target met: {so_far} (target {goal:g} %), {num_done} of {plan.budget} measured"
    if num_done >= plan.budget:
        goal_text = "" if plan.target_error_pct is None else f" (target {plan.target_error_pct:g} %)"
        return f"budget spent: {num_done} of {plan.budget} measured; {so_far}{goal_text}"
    return None


def proposals(target: Target, measure: Measure, known: Sequence[str], num: int) -> list[str]:
    """The `num` subjects to measure next, given those known or asked for."""
    from latency_predictors.choosing import Pool

    if num <= 0:
        return []
    return Pool.of(target.space, target.kernels, measure, known).next(known, num)


def export_graph(target: Target, name: str, folder: Path) -> Path:
    """Writes the ONNX file of a subject, with random weights, unless it is there."""
    from latency_predictors.graphs import export_onnx, graph_bytes

    path = folder / graph_name(name)
    if not graph_bytes(path):
        module, inputs, input_names, output_names = target.subjects.build(name)
        export_onnx(module, inputs, path, input_names, output_names)
    return path


def asking_file(out: Path) -> Path:
    """Where the profile at `out` asks for measurements: `pixel.to_measure.csv` for `pixel.json`."""
    return out.with_name(f"{out.stem}.to_measure.csv")


def earlier_profile(out: Path) -> DeviceProfile | None:
    """The profile that is there already."""
    from latency_predictors.profile import DeviceProfile

    return DeviceProfile.load(out) if out.is_file() else None


def _known(given: Given, target: Target, earlier: DeviceProfile | None) -> Known | None:
    """What is known; None on the first call, with nothing to fit to."""
    if earlier is None and not given.is_anything():
        return None
    if earlier is not None:
        earlier.check(target.space, latent_size=target.shapes.latent_size)
    return read(given, target, earlier)


def _asked(file: Path, target: Target) -> tuple[list[str], list[str]]:
    """Subjects of an earlier call's file: those with a latency, and those without; none that the space lacks."""
    if not file.is_file():
        return [], []
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error}); mend it, or move it away") from None
    if rows and not {"subject", "latency_ms"} <= set(rows[0]):
        raise UserError(f"{file}: has no columns subject and latency_ms; it is another file, move it away")
    found: tuple[list[str], list[str]] = ([], [])
    for row in rows:
        with suppress(UserError):  # the import says which row, and what the space has
            name, _ = subject_of(row["subject"] or "", target.space)
            found[0 if (row["latency_ms"] or "").strip() else 1].append(name)
    return found


def _write(file: Path, subjects: Sequence[str], facts: Any, export: Path | None) -> None:
    """Adds rows to the file, which keeps its lines as they are."""
    from nas.atomic import write_bytes

    old = file.read_text(encoding="utf-8-sig") if file.is_file() else ""
    columns = next(csv.reader(io.StringIO(old)), list(_COLUMNS))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if not old:
        writer.writeheader()
    elif not old.endswith("\n"):
        text.write("\n")
    for name in subjects:
        note = graph_name(name) if export is None else str(export / graph_name(name))
        writer.writerow({**{k: v for k, v in dict(facts).items() if v is not None}, "subject": name, "note": note})
    write_bytes(file, (old + text.getvalue()).encode())
