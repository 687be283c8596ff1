"""What a run directory says, read once into one typed object.

Plots, report and benchmarks read a run through `read_run` and never open its files themselves, so a change of
a file format is mended here and nowhere else. A part that is missing or unreadable is `None` (or empty) and
`RunData.missing[part]` says why in one sentence; nothing is guessed in its place.

Files and what is read from them (other keys are ignored):

    config.yaml          the resolved recipe
    candidates.parquet   id, one column per decision, num_params, num_macs, latency_ms, latent_error, noise_error,
                         tafid, prior, outcome, reason, seconds, order (candidates.csv is read when it is absent)
    device_profile.json  device, runtime, precision, threads, conditions, fitted and validation (lists of
                         {candidate, measured_ms, predicted_ms, low_ms, high_ms}): the whole U-Nets that the fit saw,
                         and those unseen; information, judgement. Of an NPU profile toolchain, errors, notes
    space.json           num_candidates, latency_ms and num_params as [least, largest], params_latency_tau: facts of the
                         whole space (`nas.run_data.space_facts`); the size is looked up in the preset without it
    swap_table.json      {base_error, errors: {stage: {option: latent error or null}}}
    blocks.json          [{stage, option, status, reason, first_loss, last_loss}]
    picks.json           {pick: {candidate, rule}}
    closing.json         {rows: [{pick, candidate, num_params, num_macs, predicted_ms, measured: {median_ms, iqr_ms},
                         speed_up, before: {latent_error, noise_error, tafid}, after: {...}, aligned, tafid_floor,
                         checks: nas.fidelity.check_record.Checks or null}]};
                         target_device, target_ms, target_low_ms, target_high_ms where the search was for another device
    timings.json         {phases: {phase: seconds}}
    proxy.json           nas.fidelity.proxy_record.Proxy; a run has it once `nanosd proxy` has been called
    provenance.json      free key-value facts: versions, hashes, host
    images/<model>/<i>.png, images/captions.json {captions: [...]}
    baselines.json       `nas.baselines.Baselines`, of runs that were compared with hand-made layouts
    baselines/<model>/<i>.png
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas.baselines import BASELINES_FILE, Baselines, read_baselines
from nas.fidelity.check_record import Checks
from nas.fidelity.proxy_record import FILE as PROXY_FILE
from nas.fidelity.proxy_record import Proxy, read_proxy
from nas.run_data.candidates_file import read_candidates
from nas.run_data.device_file import read_device
from nas.run_data.types import (
    STAGES,
    BlockLoss,
    ClosingRow,
    ModelImages,
    Pick,
    RunData,
    Scores,
    SpaceFacts,
    SwapTable,
    word_order,
    words_of,
)
from nas.run_data.values import needed, number, text, whole
from search_spaces.errors import UserError
from search_spaces.space_file import load_space

#: part -> (file, what writes it): the words of the "missing" sentence.
PARTS = {
    "config": ("config.yaml", "the start of a run"),
    "candidates": ("candidates.parquet", "the search phase"),
    "device": ("device_profile.json", "the calibration phase"),
    "swap_table": ("swap_table.json", "the prior phase"),
    "blocks": ("blocks.json", "the distillation phase"),
    "picks": ("picks.json", "the pick phase"),
    "closing": ("closing.json", "the finalize phase"),
    "phases": ("timings.json", "every phase as it ends"),
    "images": ("images/", "the finalize phase"),
    "provenance": ("provenance.json", "the start of a run"),
}

T = TypeVar("T")


def read_run(folder: Path | str) -> RunData:
    """Read a run directory; parts that are missing or unreadable are named in `missing`.

    Raises:
        UserError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"no run directory at {folder}: make one with `nanosd search`, or with `python -m nox -s quickstart`"
        )
    missing: dict[str, str] = {}

    def part(name: str, read: Callable[[Path], T], empty: T) -> T:
        file, writer = PARTS[name]
        try:
            value = read(folder / file)
        except FileNotFoundError:
            missing[name] = f"{file} is not in this run directory: {writer} writes it; `nanosd resume` completes a run"
            return empty
        except KeyError as error:
            missing[name] = f"{file} has no field {error}"
            return empty
        except (ValueError, TypeError, AttributeError, OSError) as error:
            missing[name] = f"{file} cannot be read ({str(error).splitlines()[0]})"
            return empty
        if not value:
            missing[name] = f"{file} has no entries: {writer} writes them"
        return value

    config = part("config", _read_yaml, None)
    picks: tuple[Pick, ...] = part("picks", _read_picks, ())
    wanted = frozenset(pick.candidate_id for pick in picks)
    found = part("candidates", lambda path: read_candidates(path, wanted), None)
    candidates, columns = found or ((), None)
    baselines, baseline_images = _read_baselines(folder, missing)
    return RunData(
        folder=folder,
        config=config,
        space=_read_space(folder / "space.json", (config or {}).get("space")),
        candidates=candidates,
        columns=columns,
        device=part("device", read_device, None),
        swap_table=part("swap_table", _read_swap_table, None),
        blocks=part("blocks", _read_blocks, ()),
        picks=picks,
        closing=part("closing", _read_closing, ()),
        phases=part("phases", _read_phases, None),
        images=part("images", _read_images, ()),
        captions=_read_captions(folder / "images" / "captions.json"),
        provenance=part("provenance", _read_json, None),
        missing=missing,
        proxy=_read_proxy(folder, missing),
        baselines=baselines,
        baseline_images=baseline_images,
    )


def _read_proxy(folder: Path, missing: dict[str, str]) -> Proxy | None:
    # A run is whole without it; only one that cannot be read is named.
    try:
        return read_proxy(folder)
    except (OSError, ValueError):
        missing["proxy"] = f"{PROXY_FILE} cannot be read; delete it and call `nanosd proxy` again"
        return None


def _read_baselines(folder: Path, missing: dict[str, str]) -> tuple[Baselines | None, tuple[ModelImages, ...]]:
    """Most runs have none, which is no missing part; a damaged file is."""
    try:
        found = read_baselines(folder / BASELINES_FILE)
        images = folder / "baselines"
        return found, _read_images(images) if found and images.is_dir() else ()
    except (UserError, OSError) as error:
        missing["baselines"] = str(error)
        return None, ()


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_yaml(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("it holds no key-value pairs")
    return value


def _read_swap_table(path: Path) -> SwapTable:
    data = _read_json(path)
    table = {stage: {o: number(e) for o, e in options.items()} for stage, options in data["errors"].items()}
    return SwapTable(table, number(data.get("base_error")))


def _read_space(path: Path, preset: object) -> SpaceFacts:
    # Facts of the space only add to what the page says, so that their absence is no missing part.
    try:
        data = _read_json(path)
        return SpaceFacts(
            num_candidates=whole(data.get("num_candidates")),
            latency_ms=_range(data.get("latency_ms")),
            num_params=_range(data.get("num_params")),
            params_latency_tau=number(data.get("params_latency_tau")),
        )
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    try:
        return SpaceFacts(num_candidates=load_space(str(preset)).num_candidates)
    except UserError:
        return SpaceFacts()


def _range(value: Any) -> tuple[float, float] | None:
    return None if value is None else (needed(value[0], "least"), needed(value[1], "largest"))


def _read_blocks(path: Path) -> tuple[BlockLoss, ...]:
    blocks = [
        BlockLoss(
            r["stage"],
            r["option"],
            number(r.get("first_loss")),
            number(r.get("last_loss")),
            text(r.get("reason")),
            number(r.get("start_loss")),
            number(r.get("end_loss")),
        )
        for r in _read_json(path)
    ]
    return tuple(sorted(blocks, key=lambda b: (STAGES.index(b.stage), *word_order(b.option))))


def _read_picks(path: Path) -> tuple[Pick, ...]:
    return tuple(Pick(name, str(row["candidate"]), text(row.get("rule"))) for name, row in _read_json(path).items())


def _scores(row: Any) -> Scores:
    row = row or {}
    return Scores(number(row.get("latent_error")), number(row.get("noise_error")), number(row.get("tafid")))


def _read_closing(path: Path) -> tuple[ClosingRow, ...]:
    data = _read_json(path)
    rows = data["rows"]
    return tuple(_closing_row(row) for row in rows)


def _closing_row(row: Mapping[str, Any]) -> ClosingRow:
    candidate_id = row.get("candidate")
    measured = row.get("measured") or {}
    return ClosingRow(
        name=str(row["pick"]),
        candidate_id=candidate_id,
        words=words_of(candidate_id or ""),
        num_params=whole(row.get("num_params")),
        num_macs=whole(row.get("num_macs")),
        predicted_ms=number(row.get("predicted_ms")),
        measured_ms=number(measured.get("median_ms")),
        measured_iqr_ms=number(measured.get("iqr_ms")),
        speed_up=number(row.get("speed_up")),
        before=_scores(row.get("before")),
        after=_scores(row.get("after")),
        tafid_floor=number(row.get("tafid_floor")),
        aligned=row.get("aligned"),
        target_device=text(row.get("target_device")),
        **{name: number(row.get(name)) for name in ("target_ms", "target_low_ms", "target_high_ms")},
        checks=_read_checks(row.get("checks")),
    )


def _read_checks(value: Any) -> Checks | None:
    # They only add to the row: of another version, or damaged, they are left out and the page says that there are none.
    try:
        return None if value is None else Checks.model_validate(value)
    except ValueError:
        return None


def _read_phases(path: Path) -> dict[str, float]:
    return {phase: needed(seconds, phase) for phase, seconds in _read_json(path)["phases"].items()}


def _read_images(folder: Path) -> tuple[ModelImages, ...]:
    """One row per model folder: the teacher first, then by name (callers reorder by the closing table)."""
    models = sorted((f for f in folder.iterdir() if f.is_dir()), key=lambda f: (f.name != "teacher", f.name))

    def order(path: Path) -> tuple[int, str]:
        return (int(path.stem), "") if path.stem.isdigit() else (1 << 30, path.stem)

    rows = [ModelImages(f.name, tuple(sorted(f.glob("*.png"), key=order))) for f in models]
    return tuple(row for row in rows if row.files)


def _read_captions(path: Path) -> tuple[str, ...]:
    # Captions only label columns: without them the columns are numbered, so their absence is no missing part.
    try:
        captions = _read_json(path)
    except (OSError, ValueError):
        return ()
    captions = captions.get("captions") if isinstance(captions, dict) else captions
    return tuple(str(caption) for caption in captions) if isinstance(captions, list) else ()
