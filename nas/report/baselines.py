"""Hand-made baselines beside the searched candidates: table, charts, verdict and images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import plots
from nas.plots.format import NONE, count, counted, error, milliseconds
from nas.report import page
from nas.run_data import ModelImages, RunData, words_of

if TYPE_CHECKING:
    from nas.baselines import Baselines, Entry

TITLE = "Against layouts made by hand"
_FOOTING = (
    "Same teacher, images, batches in the same order, and steps for all; each trained as said below, and the "
    "better of before and after the output-level distillation kept, as for the picks (docs/baselines.md)."
)


def section(run: RunData) -> str:
    """Whether the search was worth it."""
    record = run.baselines
    if record is None:
        reason = run.missing.get("baselines", "none were made: `nanosd baselines RUN` makes, trains and measures them")
        return page.section("baselines", TITLE, "Whether searching was worth it.", page.missing(reason))
    lead = (
        "Layouts that people chose, trained and measured exactly as the searched candidates are. A layout is dominated "
        "where a searched model is at least as faithful, as fast and as small, and better in one of these."
    )
    head = (
        "model",
        "parameters",
        "MACs",
        "predicted",
        "measured",
        "latent error",
        "noise error",
        "taFID",
        "dominated by",
    )
    table = page.table(head, [_cells(each) for each in _order(record)], [False] + [True] * 7 + [False], cards=True)
    figures = (
        page.figure(plots.finished_pair(run, "latency_ms"), "baselines-latency"),
        page.figure(plots.finished_pair(run, "num_params"), "baselines-params"),
    )
    notes = page.notes(
        [_FOOTING, "Grey: the latent error before the output-level distillation, and 95 % intervals over the samples."]
    )
    why = page.details(
        "What each is, how it was chosen and trained",
        page.table(("model", "words per stage", "why", "trained"), map(_origin, _order(record)), [False] * 4),
    )
    said = "<p>" + "<br>".join(map(page.text, verdict(record))) + "</p>"
    return page.section(
        "baselines", TITLE, lead, said, page.side_by_side(*figures), table, notes, why, _images(run, record)
    )


def verdict(record: Baselines) -> list[str]:
    """Who is dominated by whom, how sure that is, and what the baselines add to the front: sentences."""
    found = []
    for entry in record.baselines:
        if entry.dominated_by:
            more = len(entry.dominated_by) - 1
            others = f" and {counted(more, 'other')}" if more else ""
            found.append(f"{entry.name} is dominated by {entry.dominated_by[0]}{others}.")
        else:
            same = next((e.name for e in record.searched if e.candidate == entry.candidate), None)
            found.append(
                f"{entry.name} is not dominated by any finished searched candidate"
                + (f"; the search found the same layout ({same})." if same else ".")
            )
            close = nearly_dominating(record, entry)
            if close is not None:
                late = record.latency_ms(close) / record.latency_ms(entry) - 1
                found[-1] += (
                    f" {close.name} is more faithful and no larger, and {late:.1%} slower, which is within the spread "
                    "of the measurement."
                )
        if entry.rival is not None:
            sure = "which the samples tell apart" if entry.rival.low > 0 or entry.rival.high < 0 else "within chance"
            found[-1] += (
                f" Its latent error minus that of {entry.rival.searched}, which was set against it beforehand: "
                f"{entry.rival.mean:+.3f} (95 %: {entry.rival.low:+.3f} to {entry.rival.high:+.3f}, {sure})."
            )
    gain = record.hypervolume_with - record.hypervolume_searched
    found.append(
        f"Hypervolume of the finished searched candidates {record.hypervolume_searched:.4f}, with the baselines "
        f"{record.hypervolume_with:.4f} ({gain:+.4f}), of the baselines alone {record.hypervolume_baselines:.4f}; by "
        f"{record.latency} latency."
    )
    return found


def nearly_dominating(record: Baselines, baseline: Entry) -> Entry | None:
    """The most faithful searched entry that only a latency within half an interquartile range keeps from dominating."""
    if record.latency != "measured":
        return None
    half = baseline.measured_iqr_ms / 2
    close = [
        e
        for e in record.searched
        if e.after["latent_error"] < baseline.after["latent_error"]
        and e.num_params <= baseline.num_params
        and e.measured_ms <= baseline.measured_ms + half
    ]
    return min(close, key=lambda e: e.after["latent_error"], default=None)


def _order(record: Baselines) -> list[Entry]:
    """Baselines first, then the searched ones by error."""
    return [*record.baselines, *sorted(record.searched, key=lambda e: e.after["latent_error"])]


def _cells(entry: Entry) -> list[str]:
    span = entry.intervals.get("latent_error")
    interval = f"<small>{error(span[0])} to {error(span[1])}</small>" if span else ""
    beaten = page.text(", ".join(entry.dominated_by) or "none") if entry.is_baseline else ""
    return [
        f"<b>{page.text(entry.name)}</b>" if entry.is_baseline else f"<span>{page.text(entry.name)}</span>",
        count(entry.num_params),
        count(entry.num_macs),
        milliseconds(entry.predicted_ms) if entry.predicted_ms is not None else NONE,
        f"<span>{milliseconds(entry.measured_ms)}<small>± {entry.measured_iqr_ms / 2:.2g} ms</small></span>",
        f"<span>{error(entry.after['latent_error'])}<small>{error(entry.before['latent_error'])}</small>{interval}</span>",
        error(entry.after["noise_error"]),
        error(entry.after["tafid"]),
        beaten,
    ]


def _origin(entry: Entry) -> list[str]:
    words = words_of(entry.candidate)
    kept = "" if entry.aligned else "<small>output-level distillation not kept</small>"
    return [
        page.text(entry.name),
        page.words(words) if words else f"<code>{page.text(entry.candidate)}</code>",
        page.text(entry.rule),
        f"<span>{page.text(entry.training)}{kept}</span>",
    ]


def _images(run: RunData, record: Baselines) -> str:
    """Teacher, then each baseline with the searched model that is set against it, then the picks."""
    rows = {row.model: row for row in run.baseline_images}
    if not rows:
        return ""
    order = ["teacher"]
    for entry in record.baselines:
        against = entry.dominated_by[:1] or ((entry.rival.searched,) if entry.rival else ())
        order += [entry.name, *against]
    order += [row.name for row in run.closing if not row.is_teacher]
    notes = {e.name: "made by hand" if e.is_baseline else "searched" for e in record.entries}
    shown = [rows[name] for name in dict.fromkeys(order) if name in rows]
    return "<h3>Images from the same noise</h3>" + image_rows(shown, run.captions, notes)


def image_rows(rows: list[ModelImages], captions: tuple[str, ...], small: dict[str, str]) -> str:
    """A table of images: one row a model, one column a caption; `small` is a word under a model's name."""
    width = max(len(row.files) for row in rows)
    titles = [captions[i] if i < len(captions) else f"sample {i + 1}" for i in range(width)]
    lines = []
    for row in rows:
        below = f"<small>{page.text(small[row.model])}</small>" if row.model in small else ""
        cells = "".join(
            f"<td>{page.image(f, f'{row.model}: {c}')}</td>" for f, c in zip(row.files, titles, strict=False)
        )
        lines.append(f"<tr><th>{page.text(row.model)}{below}</th>{cells}</tr>")
    top = "".join(f"<th>{page.text(title)}</th>" for title in titles)
    return page.wide(f"<th></th>{top}", "".join(lines), "images")
