"""What is set beside each other in a run: hand-made layouts, and searched candidates chosen against them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nas.baselines import spread_rows, strongest_rival
from nas.run.context import RunContext
from nas.run.finish import variant_names
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError

if TYPE_CHECKING:
    from nas.picks import Pick
    from search_spaces.costs import CostTable
    from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class Layout:
    """A hand-made layout and how it is trained: its blocks first (`by_blocks`), or the whole from the start."""

    name: str
    candidate: Candidate
    rule: str
    by_blocks: bool
    num_params: int
    num_macs: int
    predicted_ms: float | None
    estimated_ms: float | None = None
    """Where the profile does not predict it: as measured, on the profile's scale (nas.run.baseline_timing)."""


@dataclass(frozen=True)
class Chosen:
    """A searched candidate that is finished, why, and for which baselines it is the rival."""

    name: str
    candidate: str
    rule: str
    rival_of: tuple[str, ...] = ()


def make_layouts(run: RunContext, uniform_params: int, size: str) -> list[Layout]:
    """The three baselines of a run's teacher; the uniform-width one has about `uniform_params` parameters (`size`)."""
    from search_spaces.baselines import bk_sdm_tiny, nearest_uniform_width

    unet = run.teacher.unet
    pruned = bk_sdm_tiny(unet)
    uniform, factor = nearest_uniform_width(unet, uniform_params, lambda candidate: _costs(run, candidate))
    kept = "kept" if uniform.options["deep"] != "none" else "dropped"
    rule = "first layer of each encoder stage, first and last of each decoder stage, deepest stages dropped"
    return [
        _layout(run, "bk-sdm-tiny", pruned, f"BK-SDM-Tiny: {rule}", by_blocks=True),
        _layout(run, "tinysd", pruned, "Segmind's SD-Tiny: the layout of BK-SDM-Tiny", by_blocks=False),
        _layout(
            run,
            "uniform-width",
            uniform,
            f"all layers of the teacher, {float(factor):.4g} as wide inside, deepest stages {kept}; about {size}",
            by_blocks=True,
        ),
    ]


def _layout(run: RunContext, name: str, candidate: Candidate, rule: str, by_blocks: bool) -> Layout:
    costs = _costs(run, candidate)
    row = costs.space.encode(candidate)[None]
    return Layout(
        name=name,
        candidate=candidate,
        rule=rule,
        by_blocks=by_blocks,
        num_params=int(costs.params(row)[0]),
        num_macs=int(costs.macs(row)[0]),
        predicted_ms=_predicted_ms(run, candidate),
    )


def single_space(candidate: Candidate) -> SearchSpace:
    """The search space of one candidate."""
    from search_spaces.space import SearchSpace

    return SearchSpace(name="baseline", options={stage: [name] for stage, name in candidate.options.items()})


def _costs(run: RunContext, candidate: Candidate) -> CostTable:
    from search_spaces.costs import CostTable

    teacher = run.teacher
    return CostTable.from_unet(teacher.unet, single_space(candidate), teacher.latent_size, teacher.num_tokens)


def _predicted_ms(run: RunContext, candidate: Candidate) -> float | None:
    """By the run's profile; None where that does not know the candidate's options."""
    from nas.latency import latency_table

    if run.space.contains(candidate):
        return float(run.latency.latency_ms(run.space.encode(candidate)[None])[0])
    space = single_space(candidate)
    try:
        table = latency_table(run.profile, space, run.recipe.teacher)
        return float(table.latency_ms(space.encode(candidate)[None])[0])
    except UserError:
        return None


def choose_searched(
    run: RunContext, picks: Mapping[str, Pick], layouts: Sequence[Layout], num_front: int
) -> list[Chosen]:
    """Picks, for each baseline its rival, and some of the front; by what the search knew, before anything is finished.

    The rival is the most faithful evaluated candidate (raw) with no more parameters and latency: the upper end of its
    prediction's interval against the baseline's predicted, else estimated latency; where neither is known, MACs.
    """
    from nas.picks import MAX_ERROR

    rows, values = run.store.objectives()
    records = run.store.at(rows)
    ids = [record.candidate for record in records]
    vectors = np.stack([run.space.encode(Candidate.from_id(text, run.space.stages)) for text in ids])
    costs = np.array([(r.num_params, 0.0, r.num_macs or 0) for r in records], dtype=np.float64)
    costs[:, 1] = run.latency.predict(vectors).high_ms
    whys: dict[str, list[str]] = {}
    rivals: dict[str, list[str]] = {}
    for layout in layouts:
        latency_ms = layout.estimated_ms if layout.predicted_ms is None else layout.predicted_ms
        by_time = (layout.num_params, latency_ms, math.inf)
        by_macs = (layout.num_params, math.inf, layout.num_macs)
        limit = np.array(by_macs if latency_ms is None else by_time, dtype=np.float64)
        own = ids.index(layout.candidate.id) if layout.candidate.id in ids else None
        row = strongest_rival(costs, values[:, 0], limit, own)
        if row is not None:
            whys.setdefault(ids[row], []).append(f"most faithful (raw) that costs no more than {layout.name}")
            rivals.setdefault(ids[row], []).append(layout.name)
    for row in spread_rows(values, num_front, MAX_ERROR):
        whys.setdefault(ids[row], []).append("of the front")
    names = {candidate: name for name, candidate in variant_names(picks).items()}
    for pick in picks.values():
        whys.setdefault(pick.candidate, []).insert(0, "pick")
    order = sorted(whys, key=lambda text: (text not in names, values[ids.index(text), 0]))
    numbers = iter(range(1, len(order) + 1))
    return [
        Chosen(names.get(text) or f"front-{next(numbers)}", text, "; ".join(whys[text]), tuple(rivals.get(text, ())))
        for text in order
    ]
