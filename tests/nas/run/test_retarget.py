"""`nanosd retarget` against brute force: fronts, ranks, ties, picks and what to evaluate next."""

from __future__ import annotations

import csv
import dataclasses
import html
import itertools
import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from experiments.cli import app
from experiments.exits import run_app
from experiments.retarget_command import print_result
from latency_predictors.calibration import build_profile
from latency_predictors.models.base import Prediction
from latency_predictors.npu.profile import NpuProfile
from latency_predictors.profile import DeviceProfile
from latency_predictors.subject_names import BASE, option_subject
from nas import pareto
from nas.config import load_recipe
from nas.fidelity.swap import SwapTable
from nas.picks import choose, load_picks
from nas.plots.retarget import device_front, rank_changes
from nas.report.retarget_page import moves_sentence, write_retarget_page
from nas.run import moves
from nas.run.directory import RunDirectory
from nas.run.retarget import Place, Retargeted, retarget
from nas.run.retarget_files import PAGE, output_folder, write_tables
from nas.run.unevaluated import NUM_PROMISING
from nas.run.worthwhile import worthwhile
from nas.search.store import CandidateRecord, CandidateStore
from nas.teacher import load_shapes, num_text_tokens
from search_spaces.candidate import Candidate
from search_spaces.costs import CostTable
from search_spaces.options import NONE
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from search_spaces.stage_costs import meta_copy, unet_inputs
from search_spaces.surgery import assemble
from search_spaces.tracing import record_operators
from tests.latency_predictors.made_up import kernel_tables, measurement

OPTIONS = {
    "E1": ["RARA", "RA", "R"],
    "E2": ["RARA", "R"],
    "E3": ["RARA", "RA", "R"],
    "deep": ["none"],
    "D3": ["RARARA", "RR"],
    "D2": ["RARARA", "RA", "R"],
    "D1": ["RARARA", "R@3"],
}
NUM_EVALUATED = 60
MAX_ERROR = 0.4


def made_up_device(space: SearchSpace, seed: int, device: str, spread: float) -> DeviceProfile:
    """Random times of the options; whole U-Nets scatter about their sum by a log-normal factor."""
    rng = np.random.default_rng(seed)
    parts = {
        option_subject(s, o): float(rng.uniform(0.1, 1.0)) for s in space.stages for o in space.options[s] if o != NONE
    }
    measured = {name: measurement(name, ms) for name, ms in {**parts, BASE: 0.3}.items()}
    nets = list(dict.fromkeys(space.decode(row) for row in space.sample(rng, 60)))[:24]
    for net in nets:
        total = 0.3 + sum(parts.get(option_subject(s, o), 0.0) for s, o in net.options.items())
        measured[net.id] = measurement(net.id, 1.2 * total * float(rng.lognormal(0, spread)))
    profile = build_profile(
        space, kernel_tables(space), measured, nets[:12], nets[12:], teacher_key="t", latent_size=8, num_tokens=16
    )
    return profile.model_copy(update={"device": device})


@pytest.fixture(scope="module")
def costs() -> CostTable:
    unet, _ = load_shapes("toy")
    return CostTable.from_unet(unet, SearchSpace(name="small", options=OPTIONS), 8, 16)


@pytest.fixture(scope="module")
def run_dir(costs: CostTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has evaluated a part of its space; errors are the sums of swaps, scattered."""
    folder = tmp_path_factory.mktemp("retarget")
    space = costs.space
    (folder / "small.yaml").write_text(space.model_dump_json(by_alias=True))
    directory = RunDirectory(folder / "run")
    directory.create(load_recipe(None, [f"space={folder / 'small.yaml'}", f"picks.max_error={MAX_ERROR}", "name=run"]))
    here = made_up_device(space, 1, "here", 0.02)
    here.save(directory.profile)
    made_up_device(space, 2, "There, another one", 0.02).save(folder / "other.json")
    made_up_device(SearchSpace(name="less", options=OPTIONS | {"E1": ["RARA", "R"]}), 3, "less", 0.02).save(
        folder / "less.json"
    )
    rng = np.random.default_rng(4)
    errors = {s: {o: 0.01 + 0.15 * i * rng.random() for i, o in enumerate(names)} for s, names in OPTIONS.items()}
    SwapTable(key="k", base="b", base_error=0.01, errors=errors).save(directory.swap_table)
    chosen = rng.permutation(space.num_candidates)[:NUM_EVALUATED]
    store = CandidateStore(directory.store)
    for row in space.unrank(np.sort(chosen)):
        candidate = space.decode(row)
        swaps = 0.01 + sum(errors[s][o] - 0.01 for s, o in candidate.options.items())
        failed = int(row.sum()) == 1
        store.append(
            CandidateRecord(
                candidate=candidate.id,
                options=candidate.options,
                vector=tuple(int(i) for i in row),
                outcome="failed" if failed else "done",
                reason="made up" if failed else None,
                latency_ms=float(here.latency_ms(space, row[None])[0]),
                num_params=int(costs.params(row[None])[0]),
                metrics={} if failed else {"latent_error": swaps * float(rng.lognormal(0.05, 0.1))},
                trial=candidate.id,
            )
        )
    return directory.path


@pytest.fixture(scope="module")
def found(run_dir: Path) -> Retargeted:
    return retarget(run_dir, str(run_dir.parent / "other.json"))


def non_dominated(rows: Sequence[tuple[float, ...]]) -> list[bool]:
    """By comparing every pair."""
    return [
        not any(all(a <= b for a, b in zip(d, c, strict=True)) and d != c for d in rows) for c in rows
    ]  # fmt: skip


def tau_b(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall (1945) by counting pairs."""
    pairs = list(itertools.combinations(range(len(first)), 2))
    signs = [(np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in pairs]
    score = sum(a * b for a, b in signs)
    return float(score / math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)))


def objectives(found: Retargeted, side: str) -> list[tuple[float, float, float]]:
    return [(c.latent_error, getattr(c, side).latency_ms, float(c.num_params)) for c in found.candidates]


def test_both_fronts_are_those_of_all_pairs(found: Retargeted, run_dir: Path) -> None:
    space, other = load_space(str(run_dir.parent / "small.yaml")), DeviceProfile.load(run_dir.parent / "other.json")
    done = [r for r in CandidateStore(run_dir / "store").latest() if r.outcome == "done"]
    assert {c.candidate for c in found.candidates} == {r.candidate for r in done} and len(done) < NUM_EVALUATED
    stored = {r.candidate: r for r in done}
    for c in found.candidates:
        row = np.array([stored[c.candidate].vector])
        predicted = other.predict(space, row)
        assert c.here.latency_ms == stored[c.candidate].latency_ms
        assert (c.there.latency_ms, c.there.low_ms, c.there.high_ms) == pytest.approx(
            (predicted.latency_ms[0], predicted.low_ms[0], predicted.high_ms[0]), rel=1e-12
        )
    was, now = (non_dominated(objectives(found, side)) for side in ("here", "there"))
    words = {(True, True): "stays", (False, True): "enters", (True, False): "leaves", (False, False): "off"}
    assert [c.move for c in found.candidates] == [words[pair] for pair in zip(was, now, strict=True)]
    assert {c.move for c in found.candidates} == {"stays", "enters", "leaves", "off"}, "the example shows every move"


def test_ranks_and_kendall_by_a_second_implementation(found: Retargeted) -> None:
    latency = {side: [getattr(c, side).latency_ms for c in found.candidates] for side in ("here", "there")}
    either = [i for i, c in enumerate(found.candidates) if c.move != "off"]
    for side, values in latency.items():
        places: list[Place] = [getattr(c, side) for c in found.candidates]
        assert [p.rank for p in places] == rankdata(values, method="min").tolist()
        among = rankdata([values[i] for i in either], method="min").tolist()
        assert [places[i].front_rank for i in either] == among
        assert all(p.front_rank is None for i, p in enumerate(places) if i not in either)
        for p in places:
            # Faster or slower for certain: neither latency lies within the other's interval.
            faster = slower = 0
            for q in (getattr(d, side) for d in found.candidates):
                if not p.low_ms <= q.latency_ms <= p.high_ms and not q.low_ms <= p.latency_ms <= q.high_ms:
                    faster, slower = faster + (q.latency_ms < p.latency_ms), slower + (q.latency_ms > p.latency_ms)
            assert (p.rank_low, p.rank_high) == (1 + faster, len(places) - slower)
    assert found.kendall_all == pytest.approx(tau_b(latency["here"], latency["there"]))
    pair = [[latency[side][i] for i in either] for side in ("here", "there")]
    assert found.kendall_front == pytest.approx(tau_b(*pair))


def test_picks_follow_the_same_rules(found: Retargeted, run_dir: Path) -> None:
    for side, picks in (("here", found.picks_here), ("there", found.picks_there)):
        rows = [
            (c, values)
            for c, values, on in zip(
                found.candidates, objectives(found, side), non_dominated(objectives(found, side)), strict=True
            )
            if on and c.latent_error <= MAX_ERROR
        ]
        assert set(picks) == {"fastest", "smallest", "prime"}
        assert picks["fastest"].candidate == min(rows, key=lambda r: (r[1][1], r[1][0]))[0].candidate
        assert picks["smallest"].candidate == min(rows, key=lambda r: (r[1][2], r[1][0]))[0].candidate


@pytest.mark.parametrize("width", [1.0, 1e9])
def test_no_ties_without_intervals_and_nothing_but_ties_within_endless_ones(width: float, found: Retargeted) -> None:
    error = np.array([c.latent_error for c in found.candidates])
    params = np.array([float(c.num_params) for c in found.candidates])
    standings = []
    for side in ("here", "there"):
        ms = np.array([getattr(c, side).latency_ms for c in found.candidates])
        standings.append(moves.standing(error, params, Prediction(ms, ms / width, ms * width, ms < 0)))
    here, there = standings
    front, rank = moves.front_change_is_tie(here, there), moves.rank_change_is_tie(here, there)
    changed = here.on_front != there.on_front
    assert changed.any()
    if width == 1:
        assert not front.any() and not rank.any()
        assert (here.surely_on == here.on_front).all() and (here.surely_off == ~here.on_front).all()
    else:
        assert (front == changed).all() and (rank == (here.rank != there.rank)).all()


def test_blocks_of_pairs_change_nothing(found: Retargeted, monkeypatch: pytest.MonkeyPatch) -> None:
    error = np.array([c.latent_error for c in found.candidates])
    params = np.array([float(c.num_params) for c in found.candidates])
    places = [c.there for c in found.candidates]
    latency = Prediction(
        *(np.array([getattr(p, name) for p in places]) for name in ("latency_ms", "low_ms", "high_ms", "extrapolates"))
    )
    whole = moves.standing(error, params, latency)
    monkeypatch.setattr(moves, "_BLOCK", 3 * len(places))
    for name, values in vars(moves.standing(error, params, latency)).items():
        assert (values == getattr(whole, name)).all(), name


def test_what_to_evaluate_next_raises_the_predicted_front_most(
    found: Retargeted, run_dir: Path, costs: CostTable
) -> None:
    """Every unevaluated candidate of the whole space, greedily, each step over all of them."""
    space, other = costs.space, DeviceProfile.load(run_dir.parent / "other.json")
    swaps = SwapTable.load(run_dir / "swap_table.json")
    evaluated = {c.candidate: c for c in found.candidates}
    sums = {space.decode(row).id: float(swaps.prior(space.stage_rows(row[None]))[0]) for row in space.enumerate()}
    ratio = float(np.median([c.latent_error / sums[name] for name, c in evaluated.items()]))
    assert found.prior_ratio == pytest.approx(ratio)
    names = [name for name in sums if name not in evaluated and ratio * sums[name] <= MAX_ERROR]
    matrix = np.array(
        [space.encode(candidate) for row in space.enumerate() if (candidate := space.decode(row)).id in names]
    )
    predicted = np.stack(
        [[ratio * sums[space.decode(row).id] for row in matrix], other.latency_ms(space, matrix), costs.params(matrix)],
        1,
    )
    known = np.array(objectives(found, "there"))
    front = known[non_dominated([tuple(row) for row in known])]
    together = non_dominated([tuple(row) for row in np.concatenate([front, predicted])])[len(front) :]
    pool = [i for i, inside in enumerate(together) if inside]
    scale = pareto.ObjectiveScale.of(np.concatenate([known, predicted[pool]]))
    chosen: list[int] = []
    for _ in range(NUM_PROMISING):
        have = np.concatenate([front, predicted[chosen]])
        gain = {i: scale.hypervolume(np.vstack([have, predicted[i]])) - scale.hypervolume(have) for i in pool}
        best = max(gain, key=lambda i: gain[i])
        if gain[best] <= 1e-9:
            break
        chosen.append(best)
    assert chosen, "the example has candidates that are worth it"
    assert [p.candidate for p in found.promising] == [space.decode(matrix[i]).id for i in chosen]
    assert not {p.candidate for p in found.promising} & set(evaluated)


def test_what_to_evaluate_next_keeps_to_the_budgets(found: Retargeted, run_dir: Path) -> None:
    other = str(run_dir.parent / "other.json")
    fast = sorted(p.latency_ms for p in found.promising)[len(found.promising) // 2]
    small = sorted(p.num_params for p in found.promising)[len(found.promising) // 2]
    assert any(p.latency_ms > fast for p in found.promising) and any(p.num_params > small for p in found.promising)
    for budgets in ({"max_latency_ms": fast}, {"max_params": small}):
        kept = retarget(run_dir, other, **budgets).promising
        assert kept and all(p.latency_ms <= budgets.get("max_latency_ms", math.inf) for p in kept)
        assert all(p.num_params <= budgets.get("max_params", math.inf) for p in kept)


def test_nothing_is_worth_evaluating_that_is_dominated() -> None:
    evaluated = np.array([[0.1, 1.0, 10.0]])
    dominated, better, refused = [0.2, 2.0, 20.0], [0.05, 2.0, 20.0], [0.01, 0.5, 5.0]
    predicted = np.array([dominated, better, refused, [np.inf, 0.1, 1.0]])
    best = worthwhile(evaluated, predicted, np.array([True, True, False, True]), 5)
    assert best.rows.tolist() == [1] and best.gain[0] > 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert run_app(app, ["retarget", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_command_writes_table_picks_and_page(
    found: Retargeted, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    limit = float(np.median([c.there.latency_ms for c in found.candidates]))
    command = ["retarget", str(run_dir), "--device", str(run_dir.parent / "other.json"), "--max-latency-ms", str(limit)]
    with RunDirectory(run_dir).lock():  # a run that is still going
        assert run_app(app, [*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    folder = run_dir / "retarget" / "there-another-one-float32-1-thread"
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the run itself is only read"
    assert {Path(path) for path in said["files"].values()} == {*folder.iterdir()}
    with open(folder / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["id"] for r in rows] == [c.candidate for c in found.on_either_front]
    assert [r["move"] for r in rows] == [c.move for c in found.on_either_front]
    assert said["kendall_all"] == found.kendall_all
    picks = load_picks(folder / "picks.json")
    assert {name: picks[name] for name in found.picks_there} == found.picks_there
    within = [c for c in found.candidates if c.there.latency_ms <= limit]
    assert picks["budget"].candidate == min(within, key=lambda c: c.latent_error).candidate
    assert "budget" not in said["picks_here"], "milliseconds of one device are no budget of another"


def test_page_and_terminal_say_who_moves(found: Retargeted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = write_retarget_page(found, tmp_path / "page.html").read_text(encoding="utf-8")
    assert [page.count(f'id="figure-{name}"') for name in ("front-here", "front-there", "ranks")] == [1, 1, 1]
    assert 'src="http' not in page and "<link href" not in page
    print_result(found)
    printed = capsys.readouterr().out
    for text in (page, printed):
        assert moves_sentence(found) in text
        for c in (*found.on_either_front, *found.promising):
            assert c.candidate in text
    assert len(rank_changes(found).data) == len(found.on_either_front)
    for side in ("here", "there"):
        drawn = [x for trace in device_front(found, side).data for x in trace.x]
        assert sorted(drawn) == sorted(getattr(c, side).latency_ms for c in found.candidates)


def test_a_shipped_npu_by_name_is_an_estimate_that_extrapolates(run_dir: Path) -> None:
    found = retarget(run_dir, "sm8750-w8a16")
    profile = NpuProfile.load("sm8750-w8a16")
    meta = meta_copy(load_shapes("toy")[0])
    inputs = unet_inputs(meta, 8, num_text_tokens("toy"), 1)
    for c in found.candidates[::20]:
        net = assemble(meta, Candidate.from_id(c.candidate), copy=False)
        whole = profile.trace_ms(record_operators(lambda net=net: net(*inputs), inputs)[0])
        assert c.there.latency_ms == pytest.approx(whole, rel=1e-9)
        assert c.there.low_ms < c.there.latency_ms < c.there.high_ms
    # The toy's latents are 8 x 8, the profile's errors were found at 64 x 64.
    assert found.num_extrapolating == len(found.candidates)
    assert not found.there.is_measured and found.here.is_measured and "SM8750" in found.there.title


def test_what_cannot_be_retargeted(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, run_dir, "--device", "sm9999")
    assert "sm9999" in line and "sm8750-w8a16" in line
    assert "'RA' of stage E1" in refused(capsys, run_dir, "--device", run_dir.parent / "less.json")
    line = refused(capsys, run_dir, "--device", run_dir.parent / "other.json", "--max-latency-ms", "1e-6")
    assert "max_latency_ms" in line and "reach" in line
    RunDirectory(tmp_path / "empty").create(load_recipe(None, []))
    assert "no finished candidate yet" in refused(capsys, tmp_path / "empty", "--device", "sm8750-w8a16")
    assert "no folder with a config.yaml" in refused(capsys, tmp_path / "none", "--device", "sm8750-w8a16")
    (tmp_path / "torn.json").write_text('{"device": ')
    assert "not JSON" in refused(capsys, run_dir, "--device", tmp_path / "torn.json")


def test_picks_of_the_run_are_those_of_its_own_rules(found: Retargeted, run_dir: Path) -> None:
    assert found.picks_here == choose(CandidateStore(run_dir / "store").latest(), max_error=MAX_ERROR)


def changed(run_dir: Path, file: Path, **fields: object) -> Path:
    """The other device's profile with other fields."""
    profile = DeviceProfile.load(run_dir.parent / "other.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    profile.model_copy(update=fields).save(file)
    return file


ODD_NAMES = ["a/b c", "../../up", "手机 α", "..", "!!!", "n" * 300, "字" * 300, "two\nlines", "<b>&"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_device_name_gives_one_folder_in_the_run(found: Retargeted, name: str, tmp_path: Path) -> None:
    there = dataclasses.replace(found.there, device=name)
    result = dataclasses.replace(found, there=there)
    with output_folder(result, tmp_path, None) as folder:
        files = write_tables(result, folder)
        page = write_retarget_page(result, folder / PAGE).read_text(encoding="utf-8")
    assert folder.parent == tmp_path / "retarget" and len(folder.name.encode()) < 240
    assert {*folder.iterdir()} == {*files.values(), folder / PAGE}
    assert json.loads(files["device"].read_text())["device"] == name
    assert "\n" not in result.titles[1] and html.escape(result.titles[1]) in page
    assert "<b>&" not in page


def test_profiles_of_one_device_are_told_apart(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Same device, precision and threads as the run's own: by runtime, else by file; each has a folder of its own."""
    own = {"device": "here"}
    profiles = {
        "openvino": changed(run_dir, tmp_path / "a.json", **own, runtime="openvino"),
        "b.json": changed(run_dir, tmp_path / "b.json", **own),
        "c.json": changed(run_dir, tmp_path / "c.json", **own, training_sha256="0" * 64),
    }
    folders = []
    for word, file in profiles.items():
        for _ in range(2 if word == "c.json" else 1):  # the second time into the same folder
            assert run_app(app, ["retarget", str(run_dir), "--device", str(file), "--json"]) == 0
            said = json.loads(capsys.readouterr().out)
            folders.append(Path(said["files"]["page"]).parent)
        assert said["title_here"] != said["title_there"] and word in said["title_there"]
        shown = Path(said["files"]["page"]).read_text(encoding="utf-8")
        assert html.escape(said["title_here"]) in shown and html.escape(said["title_there"]) in shown
        print_result(retarget(run_dir, str(file)))
        printed = capsys.readouterr().out
        assert f"here:  {said['title_here']}\nthere: {said['title_there']}\n" in printed
        assert json.loads((folders[-1] / "device.json").read_text())["file"] == str(file)
    assert folders[-1] == folders[-2] and len({*folders}) == 3 and {f.parent for f in folders} == {run_dir / "retarget"}


def test_two_at_once_write_one_after_the_other(found: Retargeted, tmp_path: Path) -> None:
    for out in (None, tmp_path / "out"):
        is_written = threading.Event()
        seen: list[bool] = []

        def second(out: Path | None = out, is_written: threading.Event = is_written, seen: list[bool] = seen) -> None:
            with output_folder(found, tmp_path, out):
                seen.append(is_written.is_set())

        thread = threading.Thread(target=second)
        with output_folder(found, tmp_path, out) as folder:
            thread.start()
            thread.join(0.3)  # long enough for a thread that does not wait
            write_tables(found, folder)
            is_written.set()
        thread.join()
        assert seen == [True]


def test_what_does_not_move_lies_thin_below_the_rest(found: Retargeted) -> None:
    lines = {trace.text[0].split("</b>")[0].removeprefix("<b>"): trace for trace in rank_changes(found).data}
    moved = {
        c.candidate
        for c in found.on_either_front
        if c.move != "stays" or (c.here.front_rank != c.there.front_rank and not c.rank_tie)
    }
    assert moved and len(moved) < len(lines), "the example has both"
    order = [name in moved for name in lines]
    assert order == sorted(order), "what moves is drawn last, on top"
    quiet = [lines[name] for name in lines if name not in moved]
    loud = [lines[name] for name in moved]
    assert max(t.line.width for t in quiet) < min(t.line.width for t in loud)
    assert max(t.marker.size for t in quiet) < min(t.marker.size for t in loud)
    assert not {t.line.color for t in quiet} & {t.line.color for t in loud}
    for name, trace in lines.items():
        c = found.find(name)
        assert tuple(trace.y) == (c.here.front_rank, c.there.front_rank)
        is_level = c.here.front_rank == c.there.front_rank
        assert (trace.line.dash == "dot") == (c.front_tie or (c.rank_tie and not is_level))
