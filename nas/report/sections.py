"""The report's sections in order. Each takes the run and returns HTML; none assumes that its part is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from latency_predictors.information import INFORMATION
from latency_predictors.judging import RULE
from nas import plots
from nas.fidelity.swap import additivity
from nas.plots import data
from nas.plots.format import NONE, duration, milliseconds, percent
from nas.report import baselines, checks, models, page, proxy_section
from nas.report.front import drawn, front, no_candidates, small
from nas.report.models import conditions_text
from nas.run_data import Device, RunData


def history(run: RunData) -> str:
    """Hypervolume over evaluations."""
    lead = (
        "The volume that the front dominates, after each evaluation: it flattens when further candidates "
        "stop adding to the front."
    )
    if not run.done:
        return page.section("hypervolume", "Hypervolume over evaluations", lead, no_candidates(run))
    found = data.hypervolume_history(run)
    note = f"After {found.evaluations[-1]:,} evaluations: {found.values[-1]:.4f}. Rule: {found.rule}."
    return page.section(
        "hypervolume",
        "Hypervolume over evaluations",
        lead,
        page.figure(plots.hypervolume_history(run), "hypervolume"),
        small(note),
    )


def calibration(run: RunData) -> str:
    """What latencies were predicted from, and how predictions compare with measurements."""
    title = "How latency is predicted"
    device = run.device
    if device is None:
        reason = run.missing.get("device", "device_profile.json says nothing of its device")
        return page.section("latency", title, "Where the latencies come from.", page.missing(reason))
    known = INFORMATION.get(device.fitted_from or "")
    lead = f"Latency on {device.device} is predicted" + (f" by a fit to {known}." if known else ".")
    if not device.points:
        return page.section("latency", title, page.text(lead), *_never_measured(device))
    errors = data.errors_pct(run)
    unseen = len(device.errors_pct("check"))
    said = "No U-Net was kept out of the fit" + (f": {device.error}." if device.error else ".")
    if errors:
        said = f"{unseen} unseen U-Nets: median error {percent(errors[0])}, worst {percent(errors[1])}."
    if device.p90_error_pct is not None and errors:
        said += f" 90th percentile {percent(device.p90_error_pct)}"
        said += "." if device.spearman is None else f", Spearman {device.spearman:.3f}."
    if device.coverage90 is not None:
        said += f" 90 % intervals hold {percent(100 * device.coverage90)} of the measurements."
    listing = [
        (
            f"<code>{page.text(p.candidate_id)}</code>",
            milliseconds(p.measured_ms),
            milliseconds(p.predicted_ms),
            NONE if p.low_ms is None else f"{milliseconds(p.low_ms).removesuffix(' ms')} to {milliseconds(p.high_ms)}",
            percent(p.error_pct),
        )
        for p in sorted(device.points, key=lambda p: -p.error_pct)
        if p.role == "check"
    ]
    head = ("unseen U-Net", "measured", "predicted", "90 % interval", "error")
    table = page.table(head, listing, [False] + [True] * 4) if listing else ""
    chart = page.figure(plots.predicted_vs_measured(run), "parity")
    lead += " Whole U-Nets, measured: those that the fit saw, and those that it did not see."
    return page.section(
        "latency", title, page.text(lead), _verdict(device), small(said), page.side_by_side(chart, table)
    )


def _verdict(device: Device) -> str:
    """Whether the profile is fit for search, and by which rule; empty for one that does not judge itself."""
    return f"<p><b>Verdict: {page.text(device.verdict)}.</b></p>{small(f'Rule: {RULE}.')}" if device.verdict else ""


def _never_measured(device: Device) -> tuple[str, ...]:
    """Of a profile without whole U-Nets measured on the device: what it says of its own errors."""
    said = small(device.error[:1].upper() + device.error[1:] + ".") if device.error else ""
    if not said and not device.notes:
        return (page.missing("device_profile.json holds no measured whole U-Net"),)
    listing = [
        (page.text(what), milliseconds(published), milliseconds(predicted), percent(100 * (predicted / published - 1)))
        for what, published, predicted in device.published
    ]
    head = ("published by others, never fitted", "published", "predicted", "off by")
    table = page.table(head, listing, [False, True, True, True]) if listing else ""
    return _verdict(device), said, table, page.notes(device.notes) if device.notes else ""


def params(run: RunData) -> str:
    """Parameters against latency."""
    title = "Parameters against latency"
    if len(run.done) < 2:
        return page.section("parameters", title, "Whether a smaller model is a faster one.", no_candidates(run))
    objectives = run.evaluated.objectives
    tau = data.kendall_tau(objectives[:, 2], objectives[:, 1])
    # The sentence follows the figure, whatever it is.
    verdict = _together(tau)
    value = (
        ""
        if tau is None
        else f": Kendall's tau is {tau:.2f} over {len(run.evaluated):,} candidates (1 would be the same order)"
    )
    pair = data.contradiction(run)
    whole = run.space.params_latency_tau
    over_all = f"Over the whole space tau is {whole:.2f}. " if whole is not None else ""
    example = over_all + (
        f"The clearest case: {pair.small.candidate_id} has {percent(100 - 100 / pair.params_ratio)} fewer parameters "
        f"than {pair.fast.candidate_id} "
        f"and takes {pair.latency_ratio:.2f} times as long "
        f"({milliseconds(pair.small.latency_ms)} against {milliseconds(pair.fast.latency_ms)})."
        if pair
        else "No candidate with fewer parameters is slower than one with more."
    )
    lead = f"Parameters and latency {verdict}{value}; colour is the latent error."
    return page.section(
        "parameters", title, lead, page.figure(plots.params_vs_latency(run), "parameters"), small(example), drawn(run)
    )


def swaps(run: RunData) -> str:
    """The single-swap table, and how well its sum predicts."""
    lead = (
        "First: latent error when one stage of the most faithful network is replaced. Then: what these replacements "
        "add up to, known before the search, against what was measured."
    )
    table = page.figure(plots.swap_table(run), "swaps") if run.swap_table else page.missing(run.missing["swap_table"])
    if all(c.prior is None for c in run.done):
        prior = page.missing(run.missing.get("candidates", "no finished candidate has a prior in candidates.parquet"))
        return page.section("swaps", "What each option costs in fidelity", lead, page.side_by_side(table, prior))
    priors, errors = run.evaluated.priors, run.evaluated.objectives[:, 0]
    both = np.isfinite(priors)
    tau = data.kendall_tau(priors[both], errors[both])
    note = (
        small(
            f"Kendall's tau of prior and measured latent error: {tau:.2f} over {both.sum():,} candidates."
            + _additivity(priors[both], errors[both])
        )
        if tau is not None
        else ""
    )
    chart = page.figure(plots.prior_vs_measured(run), "prior")
    return page.section(
        "swaps", "What each option costs in fidelity", lead, page.side_by_side(table, chart), note, drawn(run)
    )


def _additivity(priors: Any, errors: Any) -> str:
    try:
        found = additivity(priors, errors)
    except ValueError:
        return ""
    correlation = (
        "" if found.log_correlation is None else f" Correlation of the logarithms: {found.log_correlation:.3f}."
    )
    return (
        f" Measured over summed: {found.ratio_median:.2f} in the middle, {found.ratio_quartile1:.2f} to "
        f"{found.ratio_quartile3:.2f} for half of them; 1 is errors that simply add up.{correlation}"
    )


def blocks(run: RunData) -> str:
    """FwGD losses."""
    lead = (
        "Feature-wise distillation of each surrogate block from its first step to its last, as a share of the "
        "variance of the teacher's output."
    )
    losses = any(b.first_loss is not None and b.last_loss is not None for b in run.blocks)
    reason = run.missing.get(
        "blocks", "blocks.json holds no losses: every block came from the bank of an earlier run, or stopped"
    )
    body = page.figure(plots.distill_losses(run), "blocks") if losses else page.missing(reason)
    stopped = "".join(page.missing(f"{b.stage} {b.option} stopped: {b.reason}") for b in run.blocks if b.reason)
    return page.section("blocks", "How well each block learned its teacher", lead, body, _little_gain(run), stopped)


def _little_gain(run: RunData) -> str:
    """Which options gained too little by training to be worth keeping."""
    min_gain = float(((run.config or {}).get("distill") or {}).get("min_gain", 0.5))
    measured = [block for block in run.blocks if block.gain is not None]
    little = [block for block in measured if block.gain is not None and block.gain < min_gain]
    if not measured:
        return ""
    if not little:
        return page.notes([f"On held-out batches the loss of every block fell by {min_gain:.0%} or more."])
    names = ", ".join(f"{block.stage} {block.option} ({block.gain:.0%})" for block in little)
    sentence = (
        f"Not worth keeping: {names}. On held-out batches their loss fell by less than {min_gain:.0%} "
        "(distill.min_gain); leave them out of the search space, or train longer."
    )
    return page.notes([sentence])


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
        rows.append(
            ("config.yaml (sha256)", hashlib.sha256((run.folder / "config.yaml").read_bytes()).hexdigest()[:16])
        )
        rows.append(("seed", run.config.get("seed", NONE)))
    if run.device:
        device = run.device
        rows.append(("latency", f"{device.device}, {conditions_text(device)}"))
        rows += [(f"condition: {name}", value) for name, value in device.conditions.items()]
    rows += [(name.replace("_", " "), value) for name, value in (run.provenance or {}).items()]
    recipe = (
        page.details(
            "The resolved recipe", f"<pre>{page.text(yaml.safe_dump(dict(run.config), sort_keys=False))}</pre>"
        )
        if run.config is not None
        else page.missing(run.missing["config"])
    )
    gap = page.missing(run.missing["provenance"]) if run.provenance is None else ""
    return page.section("provenance", "Configuration and provenance", lead, page.pairs(rows), gap, recipe)


#: (anchor, word of the contents line, section), in the order of the page.
SECTIONS: tuple[tuple[str, str, Callable[[RunData], str]], ...] = (
    ("models", "models", models.closing),
    ("images", "images", models.images),
    ("front", "front", front),
    ("baselines", "baselines", baselines.section),
    ("hypervolume", "hypervolume", history),
    ("latency", "latency", calibration),
    ("parameters", "parameters", params),
    ("fidelity", "fidelity", checks.fidelity),
    ("proxy", "proxy", proxy_section.section),
    ("swaps", "options", swaps),
    ("blocks", "distillation", blocks),
    ("time", "time", phases),
    ("provenance", "provenance", provenance),
)


def _together(tau: float | None) -> str:
    if tau is None:
        return "cannot be compared"
    return (
        "largely go together here" if tau >= 0.8 else "go together only loosely" if tau >= 0.3 else "do not go together"
    )
