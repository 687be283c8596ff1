"""What the run ended with: headline, closing table, images. Each section takes the run and returns HTML."""

from __future__ import annotations

from nas.plots.format import NONE, count, duration, error, milliseconds, times
from nas.report import page
from nas.report.baselines import image_rows
from nas.run_data import ClosingRow, Device, RunData, Scores


def headline(run: RunData) -> str:
    """Title and the run in five tiles."""
    config = run.config or {}
    device, size = run.device, run.space.num_candidates
    every = run.evaluated
    failed = f"{every.num_failed:,} failed" if every.num_failed else "none failed"
    tiles = [
        ("teacher", str(config.get("teacher", NONE)), _teacher_costs(run.teacher)),
        (
            "device",
            device.device if device else NONE,
            conditions_text(device) if device else "",
        ),
        ("search space", f"{size:,}" if size else NONE, f"candidates, preset {config.get('space', NONE)}"),
        ("evaluated", f"{len(every):,}", failed if run.candidates else ""),
        ("time", duration(sum(run.phases.values())) if run.phases else NONE, "all phases"),
    ]
    name = str(config.get("name", run.folder.name))
    sentence = (
        "What this search found: smaller U-Nets that stay close to the teacher, and what each one costs on the device."
    )
    return f'<h1>NanoSD search: {page.text(name)}</h1><p class="lead">{sentence}</p>{page.facts(tiles)}'


def closing(run: RunData) -> str:
    """The closing table."""
    lead = (
        "The finished models: costs, latency measured in one interleaved run, and distance to the teacher "
        "after alignment (before it in grey); errors are relative, 0 is the teacher itself."
    )
    if not run.closing:
        return page.section("models", "The models", lead, page.missing(run.missing["closing"]))
    scores = ("latent error", "noise error", "taFID")
    target = next((row.target_device for row in run.closing if row.target_device), None)
    figures: tuple[str, ...] = ("predicted", "measured", "speed-up")
    if target is not None:
        figures = ("predicted there", "speed-up there", "measured here", "speed-up here")
    head = ("model", "words per stage", "parameters", "MACs", *figures, *scores)
    teacher_ms = run.teacher.target_ms if run.teacher else None
    rows = [_closing_cells(row, target is not None, teacher_ms) for row in run.closing]
    table = page.table(head, rows, [False] * 2 + [True] * (len(head) - 2), cards=True)
    notes = ["± is half the interquartile range of the measured latency."]
    if target is None:
        notes.append(
            "Predictions come from the calibration, the measurement from later: if the machine became busier or slower "
            "in between, all models are off by the same factor. Compare within a column."
        )
    else:
        notes.append(
            f"There: {target}, which was searched for; nothing was measured on it, figures are predicted, with 90 % "
            "intervals. Here: the machine that the search ran on, measured. The two say nothing of each other."
        )
    floors = sorted({row.tafid_floor for row in run.closing if row.tafid_floor is not None})
    if floors:
        floor = " / ".join(map(error, floors))
        notes.append(
            f"taFID of the teacher against itself with other noise (its floor): {floor}. "
            "Models are sampled from the teacher's own noise, so a close one can lie below it."
        )
    if any(row.aligned is False for row in run.closing):
        notes.append("An alignment that brought a model no closer to the teacher was not kept.")
    notes += [f"{pick.name}: {pick.rule}." for pick in run.picks if pick.rule]
    return page.section("models", "The models", lead, table, page.notes(notes))


def images(run: RunData) -> str:
    """Teacher and picks from the same noise."""
    lead = (
        "Every column starts from the same noise and caption; every row is one model, "
        "so differences down a column are the model's own."
    )
    if not run.images:
        return page.section("images", "Images from the same noise", lead, page.missing(run.missing["images"]))
    order = [row.name for row in run.closing]
    rows = sorted(run.images, key=lambda row: order.index(row.model) if row.model in order else len(order))
    where = " here" if any(row.target_device for row in run.closing) else ""
    speed = {row.name: row.speed_up for row in run.closing if row.speed_up and not row.is_teacher}
    body = image_rows(rows, run.captions, {name: f"{times(ratio)} as fast{where}" for name, ratio in speed.items()})
    return page.section("images", "Images from the same noise", lead, body)


def _teacher_costs(row: ClosingRow | None) -> str:
    if row is None:
        return ""
    where = " on this machine" if row.target_device else ""
    return f"{count(row.num_params)} parameters, {milliseconds(row.measured_ms)}{where}"


def conditions_text(device: Device) -> str:
    """Runtime, precision and, on a processor, threads."""
    threads = f", {threads_text(device.threads)}" if device.threads is not None else ""
    return f"{device.runtime}, {device.precision}{threads}"


def threads_text(threads: int | None) -> str:
    return NONE if threads is None else f"{threads} thread{'s' if threads != 1 else ''}"


def _closing_cells(row: ClosingRow, elsewhere: bool, teacher_ms: float | None) -> list[str]:
    half = f"<small>± {row.measured_iqr_ms / 2:.2g} ms</small>" if row.measured_iqr_ms is not None else ""
    return [
        f"<span>{page.text(row.name)}{'<small>alignment not kept</small>' if row.aligned is False else ''}</span>",
        page.words(row.words) if row.words else "<span>the whole U-Net</span>" if row.is_teacher else NONE,
        count(row.num_params),
        count(row.num_macs),
        *(_there(row, teacher_ms) if elsewhere else [milliseconds(row.predicted_ms)]),
        f"<span>{milliseconds(row.measured_ms)}{half}</span>",
        times(row.speed_up),
        *(_before_after(row.before, row.after, name) for name in ("latent_error", "noise_error", "tafid")),
    ]


def _there(row: ClosingRow, teacher_ms: float | None) -> list[str]:
    """Predicted latency and speed-up on the device that was searched for."""
    low, high = (milliseconds(ms).removesuffix(" ms") for ms in (row.target_low_ms, row.target_high_ms))
    cell = f"<span>{milliseconds(row.target_ms)}<small>{low} to {high}</small></span>" if row.target_ms else NONE
    return [cell, times(teacher_ms / row.target_ms if teacher_ms and row.target_ms else None)]


def _before_after(before: Scores, after: Scores, name: str) -> str:
    first, last = getattr(before, name), getattr(after, name)
    if last is None:
        return error(first)
    return f"<span>{error(last)}{f'<small>{error(first)}</small>' if first is not None else ''}</span>"
