"""Questions to a run: its front, a pick by a rule, a variant to export, a latency to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.config import Recipe
from nas.progress import Progress
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.places import check_file

if TYPE_CHECKING:
    import pandas as pd

    from latency_predictors.profile import DeviceProfile


def pareto(run_dir: Path | str) -> tuple[pd.DataFrame, Path]:
    """The front as a table, most faithful first, and the path of its 3-D figure.

    Raises:
        UserError: no finished candidate.
    """
    from nas.pareto import front
    from nas.plots import front_3d
    from nas.run_data import read_run
    from nas.search.tables import export_tables, to_frame

    run = RunContext.open(run_dir)
    frame = to_frame(run.store)
    frame = frame[frame["outcome"] == "done"]
    if frame.empty:
        raise UserError(f"run {run_dir} has no finished candidate yet; look with: nanosd status {run_dir}")
    objectives = ["latent_error", "latency_ms", "num_params"]
    on_front = frame[front(frame[objectives].to_numpy(float))].sort_values("latent_error")
    export_tables(run.directory.path)
    path = run.directory.path / "front.html"
    try:
        figure = front_3d(read_run(run.directory.path))
        title = {"text": f"The front of {run.recipe.name}", "x": 0.01, "y": 0.985, "yanchor": "top"}
        figure.update_layout(title=title, height=740, margin={"t": 96})
        figure.write_html(path, include_plotlyjs=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; mend the folder's permissions or space") from None
    columns = [c for c in ("id", "candidate", *objectives, "num_macs", "noise_error", "tafid") if c in on_front]
    return on_front[columns].reset_index(drop=True), path


def pick(run_dir: Path | str, rule: str, max_latency_ms: float | None, max_params: int | None) -> dict[str, Any]:
    """One candidate of the front by a rule (``fastest``, ``smallest``, ``prime``, ``budget``).

    Raises:
        UserError: no finished candidate, or a budget that none meets.
    """
    from nas.picks import choose_rows

    run = RunContext.open(run_dir)
    store, max_error = run.store, run.recipe.picks.max_error
    rows, values = store.objectives()
    chosen = choose_rows(
        values, lambda row: store.at(rows[row : row + 1])[0], max_latency_ms, max_params, max_error
    )  # refuses budgets that none meets
    if rule != "budget":
        latency, params = max_latency_ms or float("inf"), max_params or float("inf")
        within = np.flatnonzero((values[:, 1] <= latency) & (values[:, 2] <= params))
        chosen = choose_rows(values[within], lambda row: store.at(rows[within[row : row + 1]])[0], max_error=max_error)
    return {"pick": rule, **chosen[rule].model_dump(mode="json")}


def export(run_dir: Path | str, which: str, out_dir: Path | str, formats: Sequence[str]) -> dict[str, Any]:
    """Write a pick or any candidate of the space as a variant; candidates that are no picks are aligned first.

    Args:
        which: a pick's name or a candidate id.
        formats: ``diffusers``, ``onnx``; the diffusers folder is written in any case, as it holds the card.

    Raises:
        UserError: neither a pick nor a candidate of the space, or a folder that cannot be written.
    """
    from nas.export.diffusers import export_diffusers
    from nas.export.variant import check_variant_place
    from nas.picks import load_picks
    from nas.run.finish import card, finish, variant_names

    run = RunContext.open(run_dir)
    picks = load_picks(run.directory.picks) if run.directory.picks.is_file() else {}
    variants = variant_names(picks)
    chosen = picks[which].candidate if which in picks else variants.get(which, which)
    if which not in picks and which not in variants and "-" not in which:
        raise UserError(
            f"no pick {which!r} in {run_dir}; legal are {', '.join(picks) or 'none yet'}, or a candidate id"
        )
    candidate = Candidate.from_id(chosen, run.space.stages)
    run.space.encode(candidate)
    check_variant_place(Path(out_dir))
    with run.directory.lock():
        name = next((name for name, text in variants.items() if text == candidate.id), None)
        if name is not None:
            finished = finish(run, variants, run.directory.work, Progress())[name]
        else:
            name = candidate.id
            finished = finish(run, {name: name}, run.directory.work / "align" / name, Progress())[name]
        variant = export_diffusers(
            run.teacher, finished.student, out_dir, card(run, name, finished), onnx="onnx" in formats
        )
    return {
        "folder": str(out_dir),
        "candidate": candidate.id,
        "loads_with": variant.loads_with,
        "standard": variant.standard,
        "not_standard_because": variant.not_standard_because,
        "num_params": variant.costs.num_params,
        "fidelity": finished.after,
        "onnx_max_relative_error": {check.file: check.max_relative_error for check in variant.onnx},
    }


def calibrate(recipe: Recipe, out_path: Path | str, progress: Progress) -> DeviceProfile:
    """Measure a device profile of this machine and write it; measurements are kept beside it until it is whole.

    Raises:
        UserError: a teacher or space that cannot be used, or a path that cannot be written.
    """
    from nas.run.phases import measure_profile

    out = Path(out_path)
    check_file(out, "profile")
    run = RunContext(recipe, RunDirectory(out.parent))
    _ = run.space  # refused before anything is written
    profile = measure_profile(run, out.with_name(out.name + ".work"), progress)
    profile.save(out)
    return profile
