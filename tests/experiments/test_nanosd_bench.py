"""NanoSD-Bench: its fast evaluation against PairedEvaluator, its job, its table."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from experiments.nanosd_bench.distilled import choose, layers
from experiments.nanosd_bench.job import Job, existing
from experiments.nanosd_bench.shards import NOISE, Shards, latent_parts, units
from experiments.nanosd_bench.table import PATH, STAGES, combine, facts, load, single_swap_prior, write
from nas.config import Recipe
from nas.fidelity.paired import PairedEvaluator
from nas.fidelity.settings import FidelitySettings
from nas.progress import Progress
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.space_file import load_space

if TYPE_CHECKING:
    from nas.data import LatentDataset
    from nas.teacher import Teacher

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
needs_table = pytest.mark.skipif(not PATH.is_file(), reason="the table is not made yet")

CANDIDATES = [
    "RARA-RARA-RARA-none-RARARA-RARARA-RARARA",
    "R-R-R-none-R-R-R@3",  # no prompt: both passes of the guidance are one
    "RR-RA-R-none-RAR-RRA-RA@3",
    "RA-R-RR-none-RRR-RR-RAR",
]


@pytest.fixture(scope="module")
def dataset(toy_teacher: Teacher) -> LatentDataset:
    from nas.data import photo_latents

    return photo_latents(toy_teacher, 32, 0)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels are kept, so that one compilation serves all tests."""
    return tmp_path_factory.mktemp("kernels")


@needs_compiler
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_shared_evaluation_is_the_paired_one(
    toy_teacher: Teacher, dataset: LatentDataset, guidance: float, kernels: Path
) -> None:
    from experiments.nanosd_bench.shared_evaluator import SharedEvaluator
    from search_spaces.surgery import assemble

    space = load_space("nanosd")
    settings = FidelitySettings(num_samples=32, num_noise_samples=16, ddim_steps=2, guidance=guidance)
    paired = PairedEvaluator(toy_teacher, dataset, settings, seed=3)
    shared = SharedEvaluator(toy_teacher, space, {}, paired, kernels)
    for name in CANDIDATES:
        candidate = Candidate.from_id(name, space.stages)
        # Surrogates here are the teacher's layers as surgery leaves them: nothing is trained.
        truth = paired.evaluate(assemble(toy_teacher.unet, candidate, copy=False))
        leaves = ((candidate.options["D2"],), (candidate.options["D1"],))
        noise = shared.noise_errors(candidate.options, leaves)
        latent = [shared.latent_errors(candidate.options, start, leaves) for start in (0, 16)]
        assert noise.shape == (1, 1) and latent[0].shape == (1, 1, 16)
        assert noise[0, 0] == pytest.approx(truth.noise_error, rel=1e-4, abs=1e-9)
        assert np.mean(latent) == pytest.approx(truth.latent_error, rel=1e-4, abs=1e-9)


@needs_compiler
def test_a_group_is_its_candidates_one_by_one(toy_teacher: Teacher, dataset: LatentDataset, kernels: Path) -> None:
    from experiments.nanosd_bench.shared_evaluator import SharedEvaluator

    settings = FidelitySettings(num_samples=16, num_noise_samples=16, ddim_steps=2)
    paired = PairedEvaluator(toy_teacher, dataset, settings)
    shared = SharedEvaluator(toy_teacher, load_space("nanosd"), {}, paired, kernels)
    prefix = {"E1": "RA", "E2": "R", "E3": "RARA", "D3": "RRA"}
    noise, latent = shared.noise_errors(prefix), shared.latent_errors(prefix, 0)
    second, first = shared.leaves
    assert noise.shape == (len(second), len(first)) and latent.shape == (*noise.shape, 16)
    for i, j in ((0, 0), (3, 7), (7, 2)):
        leaves = ((second[i],), (first[j],))
        assert noise[i, j] == shared.noise_errors(prefix, leaves)[0, 0]
        assert (latent[i, j] == shared.latent_errors(prefix, 0, leaves)[0, 0]).all()


@needs_compiler
def test_what_the_kernels_cannot_do_is_refused(toy_teacher: Teacher, dataset: LatentDataset, kernels: Path) -> None:
    from experiments.nanosd_bench.shared_evaluator import SharedEvaluator

    few = PairedEvaluator(toy_teacher, dataset, FidelitySettings(num_samples=8, num_noise_samples=16, ddim_steps=1))
    with pytest.raises(UserError, match=r"num_samples: 8; legal here are multiples of 16"):
        SharedEvaluator(toy_teacher, load_space("nanosd"), {}, few, kernels)
    with pytest.raises(UserError, match="deep"):
        SharedEvaluator(toy_teacher, load_space("bk-sdm"), {}, few, kernels)


def test_units_are_the_space_in_another_order() -> None:
    space = load_space("nanosd")
    every = units(space)
    assert sorted(unit.number for unit in every) == list(range(512))
    assert len({tuple(unit.options.values()) for unit in every}) == 512
    assert [u.number for u in every] == [u.number for u in units(space)] != list(range(512))


def test_shards_of_other_blocks_are_not_read(tmp_path: Path) -> None:
    unit = units(load_space("nanosd"))[0]
    part = latent_parts(32)[1]
    errors = np.arange(2 * 3 * 16).reshape(2, 3, 16) / 7
    Shards(tmp_path, "a").write(part, unit, errors)
    found = Shards(tmp_path, "a").read(part, unit)
    assert found is not None and np.allclose(found, errors, rtol=1e-6)
    assert Shards(tmp_path, "b").read(part, unit) is None
    assert Shards(tmp_path, "a").read(NOISE, unit) is None


def test_layers_are_fronts_peeled_off() -> None:
    values = np.random.default_rng(0).integers(0, 6, size=(60, 3)).astype(float)
    found = layers(values, most=60)
    for row, value in enumerate(values):
        before = [
            found[other] for other in range(60) if (values[other] <= value).all() and (values[other] < value).any()
        ]
        assert found[row] == max(before, default=-1) + 1
    few = layers(values, most=20)
    assert (few == np.minimum(found, few.max())).all() and (few < few.max()).sum() >= 20


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no bench; start one with"):
        existing(tmp_path)


def test_a_table_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("arch")
    with pytest.raises(UserError, match="is no Parquet file"):
        load(tmp_path / "text.parquet")
    pd.DataFrame({"arch": ["000000"]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="is not a table of NanoSD-Bench"):
        facts(tmp_path / "other.parquet")


SMALL_SPACE = """
name: small
options:
  E1: [RARA, R]
  E2: [RARA]
  E3: [RARA, R]
  deep: [none]
  D3: [RARARA]
  D2: [RARARA, RR]
  D1: [RARARA, RR]
"""


@needs_compiler
@pytest.mark.slow
def test_the_whole_job_on_a_small_space(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL_SPACE)
    recipe = Recipe.model_validate(
        {
            "space": str(tmp_path / "small.yaml"),
            "data": {"num_images": 32},
            "calibration": {"max_seconds": 1, "min_repeats": 3, "num_fit": 3, "num_check": 2},
            "distill": {"steps": 2, "batch_size": 4},
            "fidelity": {"num_samples": 32, "num_noise_samples": 16, "ddim_steps": 2},
            "finalize": {"steps": 2, "batch_size": 4},
        }
    )
    from experiments.nanosd_bench.distilled import distil, read_distilled

    quiet = Progress(silent=True)
    job = Job(tmp_path / "job", recipe)
    job.prepare(quiet)
    with pytest.raises(UserError, match="not every candidate is evaluated yet"):
        combine(job)
    shards = tmp_path / "job" / "shards"
    command = [sys.executable, "-m", "experiments.nanosd_bench", "run", str(tmp_path / "job"), "--distil", "0"]
    killed = subprocess.Popen([*command, "--samples", "16"])
    while not list(shards.rglob("*.safetensors")):
        assert killed.poll() is None
        time.sleep(0.002)
    killed.kill()
    killed.wait()
    kept = {path: path.stat().st_mtime_ns for path in shards.rglob("*.safetensors")}
    assert subprocess.run([*command, "--samples", "16"]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list(shards.rglob("*.safetensors"))) == 2 * len(job.units)
    assert facts(tmp_path / "job" / "table.parquet")["num_samples"] == 16
    distil(job, 4, quiet)
    first = combine(job)
    again = existing(tmp_path / "job")
    again.evaluate([NOISE, *again.latent_parts], quiet)
    said = write(again, tmp_path / "t.parquet")
    frame = load(tmp_path / "t.parquet")
    assert said["num_samples"] == 32 and said["num_distilled"] == 4 and facts(tmp_path / "t.parquet") == said
    assert len(frame) == 16 and (frame["noise_error"] == first["noise_error"]).all()
    assert frame["distilled_latent_error"].notna().sum() == 4 == len(read_distilled(tmp_path / "job"))
    run = again.run
    for row in (0, 5, 15):
        candidate = run.space.decode(run.space.enumerate()[row])
        from search_spaces.surgery import assemble

        truth = run.evaluator.evaluate(assemble(run.teacher.unet, candidate, run.blocks, copy=False))
        assert [frame[stage][row] for stage in STAGES] == [candidate.options[stage] for stage in STAGES]
        assert frame["latent_error"][row] == pytest.approx(truth.latent_error, rel=1e-4, abs=1e-8)
        assert frame["noise_error"][row] == pytest.approx(truth.noise_error, rel=1e-4, abs=1e-8)


@needs_table
def test_the_shipped_table_is_the_whole_space() -> None:
    from nas.teacher_shapes import teacher_shapes
    from search_spaces.costs import CostTable

    assert PATH.stat().st_size < 3_000_000
    frame, said, space = load(), facts(), load_space("nanosd")
    assert len(frame) == space.num_candidates == frame["arch"].nunique() == 32_768
    shapes = teacher_shapes("toy")
    costs = CostTable.from_unet(shapes.unet, space, shapes.latent_size, shapes.num_tokens)
    matrix = space.enumerate()
    assert (frame["num_params"] == costs.params(matrix)).all() and (frame["num_macs"] == costs.macs(matrix)).all()
    for row in (0, 12_345, 32_767):
        options = space.decode(matrix[row]).options
        assert [frame[stage][row] for stage in STAGES] == [options[stage] for stage in STAGES]
        assert frame["arch"][row] == "".join(str(space.options[stage].index(options[stage])) for stage in STAGES)
    numbers = frame[["latency_ms", "noise_error", "latent_error", "latent_error_se"]].to_numpy()
    assert np.isfinite(numbers).all() and (numbers > 0).all()
    assert frame["latent_error"].idxmin() == 0  # the teacher's own words
    assert frame["distilled_latent_error"].notna().sum() == said["num_distilled"]


@needs_table
def test_the_prior_is_exact_on_single_swaps() -> None:
    frame = load()
    prior, errors = single_swap_prior(frame), frame["latent_error"].to_numpy(dtype=np.float64)
    distance = sum((frame[stage] != frame[stage].iloc[0]).to_numpy().astype(int) for stage in STAGES)
    swaps = distance <= 1
    assert swaps.sum() == 1 + sum(frame[stage].nunique() - 1 for stage in STAGES) == 31
    assert np.allclose(prior[swaps], np.maximum(errors[swaps], errors[0]))
    assert np.allclose(frame["single_swap_sum"], prior)


@needs_table
def test_the_choice_covers_its_strata() -> None:
    frame = load()
    chosen = choose(frame, 30)
    assert len({row for row, _ in chosen}) == 30
    assert {s: sum(t == s for _, t in chosen) for s in ("front", "near", "rest")} == dict.fromkeys(
        ("front", "near", "rest"), 10
    )
    assert chosen == choose(frame, 30)
