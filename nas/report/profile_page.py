"""The page of `nanosd calibrate --evaluate`: how good a device profile is, in words, figures and a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.plots.format import NONE, counted, milliseconds, percent, words_text
from nas.report import page as html
from nas.report.profile_facts import HOW, error_facts, npu_facts, profile_facts

if TYPE_CHECKING:
    from latency_predictors.evaluation import Evaluation
    from latency_predictors.judging import Verdict
    from latency_predictors.npu.profile import NpuProfile


def write_profile_page(found: Evaluation, path: Path) -> Path:
    """Write the page of a device profile atomically; returns its path."""
    from nas.atomic import write_bytes
    from nas.plots.calibration import parity, stage_errors

    device, *others = profile_facts(found)
    errors = found.judgement
    tiles = [device, ("verdict", found.verdict.words, ""), *others]
    parts = [
        f'<h1>Device profile: {html.text(found.device)}</h1><p class="lead">How far its predictions can be '
        f"trusted.</p>{html.facts(tiles)}",
        html.notes(f"Warning: {line}." for line in found.warnings) if found.warnings else "",
        _verdict(found.verdict),
    ]
    if errors is None:
        lead = _sentence(found.verdict.reasons[0])
        parts.append(html.section("errors", "Errors on whole U-Nets", html.text(lead)))
    else:
        lead = f"On {counted(errors.num, 'whole U-Net')} {HOW[errors.how]}."
        parts.append(
            html.section(
                "errors",
                "Errors on whole U-Nets",
                html.text(lead),
                html.facts(error_facts(found)[1:]),
                html.figure(parity(found.points), "parity"),
            )
        )
        stage_lead = "By how much networks with a stage option are predicted too high or too low."
        if any(e.error_pct or e.std_pct for e in found.effects):
            stage_lead += (
                " That is against the average of the stage's options, all other stages being equal; bars reach over "
                "95 %. Effects that are noise are shrunk towards zero. What all networks are off together stands with "
                "the verdict."
            )
            figure = html.figure(stage_errors(found.effects), "stages")
        else:
            figure = html.missing(_no_effects(found))
        parts.append(html.section("stages", "Where the errors are", html.text(stage_lead), figure))
        parts.append(html.section("networks", "The networks", "Largest error first.", _networks(found)))
    write_bytes(path, html.page(f"device profile {found.device}", "\n".join(parts)).encode())
    return path


def write_npu_page(profile: NpuProfile, verdict: Verdict, path: Path) -> Path:
    """Write the page of an NPU profile atomically; returns its path."""
    from nas.atomic import write_bytes
    from nas.plots.calibration import npu_errors

    device, *others = npu_facts(profile)
    tiles = [device, ("verdict", verdict.words, ""), *others]
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
        cards=True,
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


def _no_effects(found: Evaluation) -> str:
    """Why there is no chart of the stages' errors."""
    few = counted(len(found.points), "whole U-Net")
    if not found.effects:
        return f"{few} cannot tell the stages' errors apart: measure more of them."
    return (
        f"No stage option goes with an error: the errors of these {few} are no larger with some options than with "
        "others beyond what noise alone does, so that every bar is zero."
    )


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
        cards=True,
    )
