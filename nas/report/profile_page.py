"""The page of `nanosd calibrate --evaluate`: how good a device profile is, in words, figures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from latency_predictors.information import INFORMATION
from nas.plots.format import NONE, milliseconds, percent, words_text
from nas.report import page as html

if TYPE_CHECKING:
    from latency_predictors.evaluation import Evaluation
    from latency_predictors.judging import Verdict
    from latency_predictors.npu.profile import NpuProfile

_HOW = {
    "unseen": "whole U-Nets that the fit did not see",
    "leave_one_out": "whole U-Nets, left out of the fit in turn (leave-one-out)",
}


def write_profile_page(found: Evaluation, path: Path) -> Path:
    """Write the page of a device profile atomically; returns its path."""
    from nas.atomic import write_bytes
    from nas.plots.calibration import parity, stage_errors

    threads = "" if found.threads is None else f", {found.threads} thread{'s' if found.threads > 1 else ''}"
    errors = found.judgement
    tiles = [
        ("device", found.device, f"{found.runtime}, {found.precision}{threads}"),
        ("verdict", found.verdict.words, ""),
        ("search space", found.space, f"latents {found.latent_size} x {found.latent_size}"),
        (
            "fitted from",
            f"{found.num_parts} blocks, {found.num_networks} U-Nets",
            INFORMATION.get(found.information, found.information),
        ),
    ]
    parts = [
        f'<h1>Device profile: {html.text(found.device)}</h1><p class="lead">How far its predictions can be '
        f"trusted.</p>{html.facts(tiles)}",
        html.notes(f"Warning: {line}." for line in found.warnings) if found.warnings else "",
        _verdict(found.verdict),
    ]
    lead = _sentence(found.verdict.reasons[0]) if errors is None else f"On {errors.num} {_HOW[errors.how]}."
    if errors is None:
        parts.append(html.section("errors", "Errors on whole U-Nets", lead, html.missing("Nothing to judge by.")))
    else:
        floor = "no spread known" if found.repeatability_pct is None else f"±{found.repeatability_pct:.1f} %"
        facts = [
            ("median error", percent(errors.median_error_pct), "absolute"),
            ("90th percentile", percent(errors.p90_error_pct), "absolute"),
            ("within ±10 %", percent(100 * errors.within10), "of the networks"),
            ("Spearman", _two(errors.spearman), f"Kendall {_two(errors.kendall)}"),
            (
                "90 % intervals hold",
                percent(None if errors.coverage90 is None else 100 * errors.coverage90),
                "of the measurements",
            ),
            ("noise floor", floor, "95 % interval of a measured median"),
            ("ties", NONE if found.tie_pct is None else f"under {found.tie_pct:.0f} %", "either of two may be faster"),
        ]
        parts.append(
            html.section(
                "errors",
                "Errors on whole U-Nets",
                html.text(lead),
                html.facts(facts),
                html.figure(parity(found.points), "parity"),
            )
        )
        stage_lead = (
            "By how much networks with a stage option are predicted too high or too low against the average of the "
            "stage's options, all other stages being equal; bars reach over 95 %. Effects that are noise are shrunk "
            "towards zero. What all networks are off together stands with the verdict."
        )
        figure = (
            html.figure(stage_errors(found.effects), "stages")
            if found.effects
            else html.missing("Too few whole U-Nets to tell the stages' errors apart.")
        )
        parts.append(html.section("stages", "Where the errors are", html.text(stage_lead), figure))
        parts.append(html.section("networks", "The networks", "Largest error first.", _networks(found)))
    write_bytes(path, html.page(f"device profile {found.device}", "\n".join(parts)).encode())
    return path


def write_npu_page(profile: NpuProfile, verdict: Verdict, path: Path) -> Path:
    """Write the page of an NPU profile atomically; returns its path."""
    from nas.atomic import write_bytes
    from nas.plots.calibration import npu_errors

    tiles = [
        ("device", profile.device, f"{profile.precision.value}, {profile.attention} attention"),
        ("verdict", verdict.words, ""),
        ("fitted from", f"{profile.num_networks} figures", "of whole networks, published; no block measured"),
        ("latents", f"{profile.latent_size} x {profile.latent_size}", "other sizes extrapolate"),
    ]
    published = html.table(
        ("figure", "published", "predicted", "off by", "source"),
        [
            [
                html.text(p.what),
                html.text(milliseconds(p.published_ms)),
                html.text(milliseconds(p.predicted_ms)),
                html.text(percent(100 * (p.predicted_ms / p.published_ms - 1))),
                html.text(p.source),
            ]
            for p in profile.errors.published
        ],
        (False, True, True, True, False),
    )
    body = "\n".join(
        [
            f'<h1>NPU profile: {html.text(profile.device)}</h1><p class="lead">An estimate from public measurements of '
            f"whole networks. Toolchain: {html.text(profile.toolchain)}.</p>{html.facts(tiles)}",
            _verdict(verdict),
            html.section(
                "errors",
                "Errors on networks that the fit did not see",
                "Shaded is ±10 %. A network of the space is as unlike the fitted ones as those of the first kind.",
                html.figure(npu_errors(profile.errors), "npu"),
            ),
            html.section("published", "Against published figures that were never fitted", "", published),
            html.section("notes", "What to know of it", "", html.notes(profile.notes)) if profile.notes else "",
        ]
    )
    write_bytes(path, html.page(f"NPU profile {profile.device}", body).encode())
    return path


def _verdict(verdict: Verdict) -> str:
    def listed(sentences: tuple[str, ...]) -> str:
        return "<ul>" + "".join(f"<li>{html.text(_sentence(s))}</li>" for s in sentences) + "</ul>"

    return html.section(
        "verdict",
        f"Verdict: {verdict.words}",
        html.text(f"The rule: {verdict.rule}."),
        listed(verdict.reasons),
        f"<h3>What to do next</h3>{listed(verdict.next_steps)}" if verdict.next_steps else "",
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].replace("+-", "±") + ("" if text.endswith(".") else ".")


def _networks(found: Evaluation) -> str:
    from nas.run_data import words_of

    return html.table(
        ("network", "measured", "repeats within", "predicted", "90 % interval", "off by"),
        [
            [
                f"<code>{html.text(p.candidate)}</code><small>{html.text(words_text(words_of(p.candidate)))}</small>",
                html.text(milliseconds(p.measured_ms)),
                html.text(NONE if p.repeatability_pct is None else f"±{p.repeatability_pct:.1f} %"),
                html.text(milliseconds(p.predicted_ms)),
                html.text(f"{milliseconds(p.low_ms)} to {milliseconds(p.high_ms)}"),
                html.text(percent(p.error_pct)),
            ]
            for p in sorted(found.points, key=lambda p: -abs(p.error_pct))
        ],
        (False, True, True, True, True, True),
    )


def _two(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
