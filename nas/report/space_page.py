"""The page of `nanosd space profile`: tables and figures of a search space, self-contained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.plots.format import NONE, count, milliseconds, percent
from nas.report import page as html

if TYPE_CHECKING:
    from nas.space_budgets import BudgetCount
    from nas.space_profile import SpaceProfile


def written(cost: str, value: float | None) -> str:
    """A cost as a person reads it, with its unit."""
    if value is None:
        return NONE
    if cost == "latency_ms":
        return milliseconds(value)
    return f"{count(value)}B" if cost.endswith("bytes") else count(value)


def title(cost: str) -> str:
    """A cost's name for people."""
    return {
        "num_params": "parameters",
        "num_macs": "MACs",
        "weight_bytes": "weights",
        "traffic_bytes": "activation traffic",
        "peak_bytes": "peak activation memory",
        "latency_ms": "predicted latency",
    }.get(cost, cost)


def write_space_page(profile: SpaceProfile, path: Path) -> Path:
    """Write the page atomically; returns its path."""
    from nas.atomic import write_bytes
    from nas.plots.space import stage_options, teacher_treemap

    how = looked_at(profile)
    ranges = html.table(
        ("cost", "least", "median", "most", "teacher"),
        [
            [
                html.text(title(r.cost)),
                *(html.text(written(r.cost, v)) for v in (r.minimum, r.median, r.maximum, r.teacher)),
            ]
            for r in profile.ranges
        ],
        (False, True, True, True, True),
    )
    budgets = html.table(
        ("budget", "at most", "candidates within", "share", "such as"),
        [
            [
                html.text(budget_title(b)),
                html.text(NONE if b.cost is None else written(b.cost, b.limit)),
                html.text(candidates_within(b)),
                html.text(share_within(b, profile.num_candidates)),
                f"<code>{html.text(b.example)}</code>" if b.example else NONE,
            ]
            for b in profile.budgets
        ],
        (False, True, True, True, False),
    )
    stages = html.table(
        (
            "stage",
            "teacher's parameters",
            "teacher's MACs",
            "teacher's latency",
            "options' parameters",
            "options' MACs",
        ),
        [
            [
                html.text(s.stage),
                html.text(percent(100 * s.teacher_params)),
                html.text(percent(100 * s.teacher_macs)),
                html.text(percent(None if s.teacher_latency is None else 100 * s.teacher_latency)),
                html.text(between(s.smallest_option_params, s.largest_option_params)),
                html.text(between(s.smallest_option_macs, s.largest_option_macs)),
            ]
            for s in profile.stages
        ],
        (False, True, True, True, True, True),
    )
    device = " ".join(latency_sentences(profile)) or "No device profile was given, so there is no latency."
    partly = set(profile.teacher_params) - {"base"} - set(profile.teacher_latency_ms)
    note = (
        " Latency is that of the stages whose own option the device profile has, which are not "
        f"{', '.join(sorted(partly))}."
        if profile.teacher_latency_ms and partly
        else ""
    )
    body = "\n".join(
        [
            html.section(
                "ranges",
                f"Search space {profile.space}",
                html.text(f"{how} Bytes are those of {profile.precision.value}. {device}"),
                ranges,
                budgets if profile.budgets else "",
            ),
            html.section(
                "options",
                "Stage options",
                "Each point is one option of one stage, run alone: what it saves, and on which axis. Ringed is the "
                "teacher's own; a stage that is dropped costs nothing and is not drawn.",
                html.figure(stage_options(profile), "options"),
            ),
            html.section(
                "teacher",
                "Where the teacher's cost lies",
                html.text(f"Area is the share of the whole teacher; inside a stage, of its operator classes.{note}"),
                html.figure(teacher_treemap(profile), "teacher"),
                stages,
            ),
        ]
    )
    write_bytes(path, html.page(f"search space {profile.space}", body).encode())
    return path


def latency_sentences(profile: SpaceProfile) -> list[str]:
    """Whose latencies these are and how sure; none where no device was given."""
    from nas.latency import trust

    found = profile.latency
    if found is None:
        return []
    less, more = 100 * (1 - found.low_factor), 100 * (found.high_factor - 1)
    return [
        *trust(found.device, found.num_extrapolating, found.num_looked_at),
        f"90 % interval of a latency: {less:.0f} % less to {more:.0f} % more (median over the candidates).",
    ]


def between(low: int, high: int) -> str:
    """A range of counts; `none` for a stage that is always dropped."""
    return "none" if high == 0 else f"{count(low)} to {count(high)}"


def looked_at(profile: SpaceProfile) -> str:
    """Sentences on what is counted, and which candidates the figures are of."""
    pipeline = (
        "Costs are of VAE encoder, U-Net once a step and VAE decoder; the teacher's of one step. "
        if profile.is_pipeline
        else ""
    )
    if profile.counted:
        return f"{pipeline}Every one of the {profile.num_candidates:,} candidates was looked at."
    sampled = [title(r.cost) for r in profile.ranges if not r.ends_are_exact]
    ends = f" The ends of {' and '.join(sampled)} are the sample's, too; all others are exact." if sampled else ""
    return (
        f"{pipeline}Medians are of {profile.num_looked_at:,} candidates drawn uniformly from "
        f"{profile.num_candidates:,}.{ends}"
    )


def budget_title(budget: BudgetCount) -> str:
    """What is bounded."""
    return "all together" if budget.cost is None else title(budget.cost)


def candidates_within(budget: BudgetCount) -> str:
    """How many candidates meet a budget: a number, certain bounds, or a 95 % interval."""
    low, high = budget.num_low, budget.num_high
    if budget.certain and low == high:
        return f"{int(low):,}"
    if budget.certain:
        return f"{low:.4g} to {high:.4g}"
    return f"about {low:.3g} to {high:.3g} (95 %)" if low > 0 else f"fewer than {high:.3g} (95 %)"


def share_within(budget: BudgetCount, num_candidates: int) -> str:
    """The share that meets a budget."""
    low, high = 100 * budget.num_low / num_candidates, 100 * budget.num_high / num_candidates
    return f"{low:.3g} %" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g} %"
