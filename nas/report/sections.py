"""The report's sections, in the order of the page. Each takes the run and returns HTML; none assumes a part is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from nas import plots
from nas.plots import data, style
from nas.plots.format import NONE, count, duration, error, milliseconds, percent, times
from nas.report import page
from nas.run_data import Candidate, ClosingRow, RunData, Scores

def headline(run: RunData) -> str:
    """Title and the run in five tiles."""
    config = run.config or {}
    device, size = run.device, run.space.num_candidates
    failed = f"{len(run.failed)} failed" if run.failed else "none failed"
    tiles = [
        ("teacher", str(config.get("teacher", NONE)), _teacher_costs(run.teacher)),
        ("device", device.device if device else NONE, f"{device.runtime}, {device.precision}, {_threads(device.threads)}" if device else ""),
        ("search space", f"{size:,}" if size else NONE, f"candidates, preset {config.get('space', NONE)}"),
        ("evaluated", f"{len(run.done)}", failed if run.candidates else ""),
        ("time", duration(sum(run.phases.values())) if run.phases else NONE, "all phases"),
    ]
    name = str(config.get("name", run.folder.name))
    sentence = "What this search found: smaller U-Nets that stay close to the teacher, and what each one costs on this device."
    return f'<h1>NanoSD search: {page.text(name)}</h1><p class="lead">{sentence}</p>{page.facts(tiles)}'


def closing(run: RunData) -> str:
    """The closing table."""
    lead = (
        "The finished models: costs, latency measured in one interleaved run, and distance to the teacher after alignment "
        "(before it in grey); errors are relative, 0 is the teacher itself."
    )
    head = ("model", "words per stage", "parameters", "MACs", "predicted", "measured", "speed-up", "latent error", "noise error", "taFID")
    rows = [_closing_cells(row, run) for row in run.closing]
    floors = {row.tafid_floor for row in run.closing if row.tafid_floor is not None}
    note = f"taFID of the teacher against itself with other noise (its floor): {' / '.join(error(f) for f in sorted(floors))}." if floors else ""
    body = page.table(head, rows, [False] * 2 + [True] * 8, cards=True) if rows else page.missing(run.missing["closing"])
    spread = "± is half the interquartile range of the measured latency." if rows else ""
    return page.section("models", "The models", lead, body, f"<p class='lead'><small>{note} {spread}</small></p>" if rows else "")


def images(run: RunData) -> str:
    """Teacher and picks from the same noise."""
    lead = "Every column starts from the same noise and caption; every row is one model, so differences down a column are the model's own."
    if not run.images:
        return page.section("images", "Images from the same noise", lead, page.missing(run.missing["images"]))
    order = [row.name for row in run.closing]
    rows = sorted(run.images, key=lambda row: order.index(row.model) if row.model in order else len(order))
    width = max(len(row.files) for row in rows)
    captions = [run.captions[i] if i < len(run.captions) else f"sample {i + 1}" for i in range(width)]
    speed = {row.name: row.speed_up for row in run.closing if row.speed_up and not row.is_teacher}
    lines = []
    for row in rows:
        small = f"<small>{times(speed[row.model])} as fast</small>" if row.model in speed else ""
        cells = "".join(f"<td>{page.image(f, f'{row.model}: {c}')}</td>" for f, c in zip(row.files, captions, strict=False))
        lines.append(f"<tr><th>{page.text(row.model)}{small}</th>{cells}</tr>")
    top = "".join(f"<th>{page.text(caption)}</th>" for caption in captions)
    body = f'<div class="wide"><table class="images"><thead><tr><th></th>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    return page.section("images", "Images from the same noise", lead, body)


def front(run: RunData) -> str:
    """The three-objective front and its projections."""
    lead = (
        "Candidates that no other one beats in latent error, latency and parameters at once; all three are better when smaller. "
        "Point at a mark for the candidate's id, words and costs; drag to turn."
    )
    if not run.done:
        return page.section("front", "The front", lead, _no_candidates(run))
    found = data.front_data(run)
    key = page.key(
        [("●", style.BLUE, f"on the front ({len(found.front)})"), ("●", style.FAINT, f"dominated ({len(found.dominated)})")]
        + [(style.GLYPHS[symbol], color, name) for name, (color, symbol) in style.pick_marks(list(found.picks)).items()]
    )
    # Its height is the page's: a phone is no place for a chart as tall as a laptop's.
    space = plots.front_3d(run).update_layout(showlegend=False, height=None)
    flat = [page.figure(plots.front_pair(run, x, y, legend=False), f"front-{x}-{y}") for x, y in plots.PAIRS]
    rows = [
        (f"<code>{page.text(c.candidate_id)}</code>", error(c.latent_error), milliseconds(c.latency_ms), count(c.num_params), count(c.num_macs))
        for c in sorted(found.front, key=lambda c: c.latent_error or 0.0)
    ]
    listing = page.table(("candidate", "latent error", "latency", "parameters", "MACs"), rows, [False] + [True] * 4)
    names = f"<p class='lead'><small>Words of a candidate stand in the order {' - '.join(found.front[0].words) or 'of the stages'}.</small></p>"
    return page.section(
        "front",
        "The front",
        lead,
        key,
        '<div class="tall">' + page.figure(space, "front-3d", on_phone="{'scene.camera.eye':{x:1.9,y:1.7,z:0.75}}") + "</div>",
        "<h3>Two objectives at a time</h3>",
        key,
        page.side_by_side(*flat),
        page.details(f"The {len(rows)} candidates on the front as a table", names + listing),
        _failures(run.failed),
    )


def history(run: RunData) -> str:
    """Hypervolume over evaluations."""
    lead = "The volume that the front dominates, after each evaluation: it flattens when further candidates stop adding to the front."
    if not run.done:
        return page.section("hypervolume", "Hypervolume over evaluations", lead, _no_candidates(run))
    found = data.hypervolume_history(run)
    note = f"After {found.evaluations[-1]} evaluations: {found.values[-1]:.4f}. Rule: {found.rule}."
    return page.section(
        "hypervolume", "Hypervolume over evaluations", lead, page.figure(plots.hypervolume_history(run), "hypervolume"), _small(note)
    )


def parity(run: RunData) -> str:
    """Predicted against measured latency."""
    lead = "Whole U-Nets on this device: those that the fit saw, and those that it did not see and that check it."
    if run.device is None or not run.device.points:
        reason = run.missing.get("device", "device_profile.json holds no measured whole U-Net")
        return page.section("latency", "Predicted against measured latency", lead, page.missing(reason))
    errors = data.errors_pct(run)
    unseen = len(run.device.errors_pct("check"))
    note = f"{unseen} unseen U-Nets: median error {percent(errors[0])}, worst {percent(errors[1])}." if errors else "No U-Net was kept out of the fit."
    rows = [
        (f"<code>{page.text(p.candidate_id)}</code>", milliseconds(p.measured_ms), milliseconds(p.predicted_ms), percent(p.error_pct))
        for p in sorted(run.device.points, key=lambda p: -p.error_pct)
        if p.role == "check"
    ]
    listing = page.table(("unseen U-Net", "measured", "predicted", "error"), rows, [False, True, True, True]) if rows else ""
    chart = page.figure(plots.predicted_vs_measured(run), "parity")
    return page.section("latency", "Predicted against measured latency", lead, _small(note), page.side_by_side(chart, listing))


def params(run: RunData) -> str:
    """Parameters against latency."""
    title = "Parameters against latency"
    if len(run.done) < 2:
        return page.section("parameters", title, "Whether a smaller model is a faster one.", _no_candidates(run))
    tau = data.kendall_tau([c.num_params for c in run.done], [c.latency_ms for c in run.done])
    # The sentence follows the figure, whatever it is.
    verdict = _together(tau)
    value = "" if tau is None else f": Kendall's tau is {tau:.2f} over {len(run.done)} candidates (1 would be the same order)"
    pair = data.contradiction(run.done)
    whole = run.space.params_latency_tau
    over_all = f"Over the whole space tau is {whole:.2f}. " if whole is not None else ""
    example = over_all + (
        f"The clearest case: {pair.small.candidate_id} has {percent(100 - 100 / pair.params_ratio)} fewer parameters than {pair.fast.candidate_id} "
        f"and takes {pair.latency_ratio:.2f} times as long ({milliseconds(pair.small.latency_ms)} against {milliseconds(pair.fast.latency_ms)})."
        if pair
        else "No candidate with fewer parameters is slower than one with more."
    )
    lead = f"Parameters and latency {verdict}{value}; colour is the latent error."
    return page.section("parameters", title, lead, page.figure(plots.params_vs_latency(run), "parameters"), _small(example))


def swaps(run: RunData) -> str:
    """The single-swap table, and how well its sum predicts."""
    lead = "First: latent error when one stage of the most faithful network is replaced. Then: what these replacements add up to, known before the search, against what was measured."
    table = page.figure(plots.swap_table(run), "swaps") if run.swap_table else page.missing(run.missing["swap_table"])
    both = [c for c in run.done if c.prior is not None]
    if not both:
        prior = page.missing(run.missing.get("candidates", "no finished candidate has a prior in candidates.parquet"))
        return page.section("swaps", "What each option costs in fidelity", lead, page.side_by_side(table, prior))
    tau = data.kendall_tau([c.prior or 0.0 for c in both], [c.latent_error or 0.0 for c in both])
    note = _small(f"Kendall's tau of prior and measured latent error: {tau:.2f} over {len(both)} candidates.") if tau is not None else ""
    chart = page.figure(plots.prior_vs_measured(run), "prior")
    return page.section("swaps", "What each option costs in fidelity", lead, page.side_by_side(table, chart), note)


def blocks(run: RunData) -> str:
    """FwGD losses."""
    lead = "Feature-wise distillation of each surrogate block from its first step to its last, as a share of the variance of the teacher's output."
    losses = any(b.first_loss is not None and b.last_loss is not None for b in run.blocks)
    reason = run.missing.get("blocks", "blocks.json holds no losses: every block came from the bank of an earlier run, or stopped")
    body = page.figure(plots.distill_losses(run), "blocks") if losses else page.missing(reason)
    stopped = "".join(page.missing(f"{b.stage} {b.option} stopped: {b.reason}") for b in run.blocks if b.reason)
    return page.section("blocks", "How well each block learned its teacher", lead, body, stopped)


def phases(run: RunData) -> str:
    """Where the time went."""
    total = f" ({duration(sum(run.phases.values()))} in all)" if run.phases else ""
    body = page.figure(plots.phase_times(run), "phases") if run.phases else page.missing(run.missing["phases"])
    return page.section("time", "Where the time went", f"Seconds of each phase of the run{total}.", body)


def provenance(run: RunData) -> str:
    """Recipe, hashes, versions, conditions, seeds."""
    import hashlib

    import yaml

    lead = "What this run was made from, enough to make it again."
    rows: list[tuple[str, object]] = [("run directory", run.folder.name)]
    if run.config is not None:
        rows.append(("config.yaml (sha256)", hashlib.sha256((run.folder / "config.yaml").read_bytes()).hexdigest()[:16]))
        rows.append(("seed", run.config.get("seed", NONE)))
    if run.device:
        device = run.device
        rows.append(("latency", f"{device.device}, {device.runtime}, {device.precision}, {_threads(device.threads)}"))
        rows += [(f"condition: {name}", value) for name, value in device.conditions.items()]
    rows += [(name.replace("_", " "), value) for name, value in (run.provenance or {}).items()]
    recipe = (
        page.details("The resolved recipe", f"<pre>{page.text(yaml.safe_dump(dict(run.config), sort_keys=False))}</pre>")
        if run.config is not None
        else page.missing(run.missing["config"])
    )
    gap = page.missing(run.missing["provenance"]) if run.provenance is None else ""
    return page.section("provenance", "Configuration and provenance", lead, page.pairs(rows), gap, recipe)


#: (anchor, word of the contents line, section), in the order of the page.
SECTIONS: tuple[tuple[str, str, Callable[[RunData], str]], ...] = (
    ("models", "models", closing),
    ("images", "images", images),
    ("front", "front", front),
    ("hypervolume", "hypervolume", history),
    ("latency", "latency", parity),
    ("parameters", "parameters", params),
    ("swaps", "options", swaps),
    ("blocks", "distillation", blocks),
    ("time", "time", phases),
    ("provenance", "provenance", provenance),
)


def _teacher_costs(row: ClosingRow | None) -> str:
    return f"{count(row.num_params)} parameters, {milliseconds(row.measured_ms)}" if row else ""


def _threads(threads: int | None) -> str:
    return NONE if threads is None else f"{threads} thread{'s' if threads != 1 else ''}"


def _closing_cells(row: ClosingRow, run: RunData) -> list[str]:
    rule = next((pick.rule for pick in run.picks if pick.name == row.name), None)
    half = f"<small>± {row.measured_iqr_ms / 2:.2g} ms</small>" if row.measured_iqr_ms is not None else ""
    return [
        f"<span>{page.text(row.name)}{f'<small>{page.text(rule)}</small>' if rule else ''}</span>",
        page.words(row.words) if row.words else "<span>the whole U-Net</span>" if row.is_teacher else NONE,
        count(row.num_params),
        count(row.num_macs),
        milliseconds(row.predicted_ms),
        f"<span>{milliseconds(row.measured_ms)}{half}</span>",
        times(row.speed_up),
        *(_before_after(row.before, row.after, name) for name in ("latent_error", "noise_error", "tafid")),
    ]


def _before_after(before: Scores, after: Scores, name: str) -> str:
    first, last = getattr(before, name), getattr(after, name)
    if last is None:
        return error(first)
    return f"<span>{error(last)}{f'<small>{error(first)}</small>' if first is not None else ''}</span>"


def _no_candidates(run: RunData) -> str:
    reason = run.missing.get("candidates") or "no candidate has finished with a usable latent error"
    return page.missing(reason) + _failures(run.failed)


def _failures(failed: Iterable[Candidate]) -> str:
    rows = [(f"<code>{page.text(c.candidate_id)}</code>", page.text(c.outcome), page.text(c.reason or NONE)) for c in failed]
    return page.details(f"{len(rows)} did not finish", page.table(("candidate", "outcome", "reason"), rows, [False] * 3)) if rows else ""


def _together(tau: float | None) -> str:
    if tau is None:
        return "cannot be compared"
    return "largely go together here" if tau >= 0.8 else "go together only loosely" if tau >= 0.3 else "do not go together"


def _small(sentence: str) -> str:
    return f'<p class="lead"><small>{page.text(sentence)}</small></p>'

