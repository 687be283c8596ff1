"""`nanosd finalize`: what it writes, that it goes on after any interruption, and what it refuses."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from experiments.cli import app
from experiments.exits import run_app
from nas.config import Recipe, load_recipe, recipe_hash
from nas.export import load_variant, read_variant
from nas.progress import Phase, Progress
from nas.run.context import RunContext
from nas.run.finalize import Finalized, Wanted, _vae_blocks, _vae_settings, finalize_run
from nas.run.questions import export
from nas.teacher import Teacher
from search_spaces.errors import UserError
from search_spaces.vae import StagedVAE
from tests.nas.run.finalize_case import DECODER, ENCODER, PRIME, make_run, open_run

BOTH = Wanted(encoder=ENCODER, decoder=DECODER)


class Killed(Exception):
    pass


def made(run: RunContext, wanted: Wanted = BOTH, progress: Progress | None = None) -> Finalized:
    return finalize_run(run, wanted, None, progress or Progress(silent=True))


def weights(folder: Path) -> dict[str, bytes]:
    paths = [path for part in ("unet", "vae") for path in (folder / part).iterdir()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, toy_teacher: Teacher) -> RunContext:
    return make_run(tmp_path_factory.mktemp("finalize"), toy_teacher)


@pytest.fixture(scope="module")
def whole(base: RunContext, toy_teacher: Teacher) -> Finalized:
    return made(base)


def test_the_variant_is_what_its_card_says(base: RunContext, whole: Finalized) -> None:
    variant = read_variant(whole.folder)
    assert whole.folder.parent == base.directory.path / "finalized"
    assert variant.lineage.candidate == PRIME and variant.recipe_hash == base.recipe_hash
    assert not variant.standard and variant.loads_with == "nas.export.load_variant"
    assert variant.vae is not None and variant.vae.reload_error == 0 and variant.reload_error == 0
    assert set(variant.fidelity_before or {}) == set(variant.fidelity_after or {})
    assert set(variant.fidelity_after or {}) == {
        *("latent_error", "noise_error", "tafid", "whole_noise_error"),
        *("image_psnr_db", "image_ssim", "image_perceptual"),
    }
    pipeline = load_variant(whole.folder)
    assert isinstance(pipeline.vae, StagedVAE)
    assert pipeline.vae.options == {"VE": ENCODER, "VD": DECODER}
    for half, module, teachers in (
        (variant.vae.encoder, pipeline.vae.encoder, (base.teacher.vae.encoder, base.teacher.vae.quant_conv)),
        (variant.vae.decoder, pipeline.vae.decoder, (base.teacher.vae.decoder, base.teacher.vae.post_quant_conv)),
    ):
        assert half.costs.num_params == sum(p.numel() for p in module.parameters())
        assert half.teacher_costs.num_params == sum(p.numel() for part in teachers for p in part.parameters())
        assert half.bank_key is not None and base.bank.has(half.bank_key)
    image = pipeline("coffee left top near", num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 64, 64) and bool(torch.isfinite(torch.as_tensor(image)).all())
    card = (whole.folder / "README.md").read_text()
    for said in (ENCODER, DECODER, PRIME, base.recipe_hash, "latent_cosine", "whole_noise_error", "search_spaces.vae"):
        assert said in card
    assert all((whole.folder / name).is_file() for name in variant.images) and len(variant.images) == 2


@pytest.mark.slow
def test_interrupted_everywhere_it_ends_the_same(
    base: RunContext, whole: Finalized, tmp_path: Path, toy_teacher: Teacher
) -> None:
    """Broken off in each training phase, the second call goes on there; the weights are those of one call."""
    shutil.copytree(base.directory.path, tmp_path / "run", ignore=shutil.ignore_patterns("finalized", "finalize"))
    run = open_run(tmp_path / "run", toy_teacher)
    for key in (half.bank_key for half in (whole.variant.vae.encoder, whole.variant.vae.decoder) if whole.variant.vae):
        for path in run.directory.bank.glob(f"{key}.*"):
            path.unlink()
    started: dict[str, int] = {}

    for name in ("vae", "finalize"):

        def kill(phase: Phase, name: str = name) -> None:
            if phase.name == name and phase.done >= 2:
                raise Killed

        progress = Progress(silent=True)
        with pytest.raises(Killed), progress.followed(kill):
            made(run, progress=progress)

    def note(phase: Phase) -> None:
        started.setdefault(phase.name, phase.skipped)
        started[phase.name] = max(started[phase.name], phase.skipped)

    progress = Progress(silent=True)
    with progress.followed(note):
        end = made(run, progress=progress)
    assert started["vae"] == 4  # found in the bank
    assert weights(end.folder) == weights(whole.folder)
    assert end.variant.fidelity_after == whole.variant.fidelity_after


@pytest.mark.slow
def test_with_the_teachers_vae_it_is_the_alignment_of_the_picks(base: RunContext, tmp_path: Path) -> None:
    found = made(base, Wanted(encoder="teacher"))
    assert found.variant.vae is None and found.folder == base.directory.path / "finalized" / "prime"
    exported = export(base.directory.path, "prime", tmp_path / "exported", ["diffusers"])
    assert weights(found.folder) == weights(tmp_path / "exported")
    assert {k: (found.variant.fidelity_after or {})[k] for k in exported["fidelity"]} == exported["fidelity"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--pick", "best"], "--pick best: no such pick"),
        (["--pick", "prime", "--candidate", PRIME], "--pick and --candidate: give one"),
        (["--candidate", "R-R"], "R-R"),
        (["--vae-encoder", "64"], "--vae-encoder: '64' is no option; legal are 'teacher'"),
        (["--vae-decoder", "8x1.8x1"], "--vae-decoder: '8x1.8x1' has 2 levels, but the teacher's VAE has 4"),
        (["--vae-steps", "0"], "--vae-steps"),
        (["--out", "{run}/variants/prime"], "which has it for its own files"),
        (["--out", "{run}/work"], "is not an exported variant"),
        (["--out", "/proc/variant"], "--out /proc/variant: cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_it_refuses(
    base: RunContext,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RunContext, "teacher", base.teacher, raising=True)
    path = base.directory.path
    before = sorted(path.rglob("*"))
    assert run_app(app, ["finalize", str(path), *(each.format(run=path) for each in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) <= 2, error  # the line of the phase "load" may stand before it
    assert sorted(path.rglob("*")) == before


def test_the_recipe_may_name_the_vae_after_the_search(base: RunContext) -> None:
    named = load_recipe(None, [f"vae.encoder={ENCODER}", "vae.steps=7"])
    assert recipe_hash(named) == recipe_hash(Recipe())
    run = RunContext(base.recipe.model_copy(update={"vae": named.vae}), base.directory)
    run.__dict__["teacher"] = base.teacher
    assert _vae_blocks(run, Wanted()) == [("VE", ENCODER)] and _vae_settings(run, Wanted()).steps == 7
    assert _vae_blocks(run, Wanted(encoder="teacher", decoder=DECODER)) == [("VD", DECODER)]
    with pytest.raises(UserError, match=r"vae.*'64' is no option; legal are 'teacher'"):
        load_recipe(None, ["vae.decoder='64'"])


def killed(folder: Path, teacher: Teacher, events: int, delay_s: float) -> bool:
    """Finalize in a child that is killed so long after so many events of its progress; whether before its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            progress = Progress(silent=True)
            with progress.followed(lambda phase: os.write(writer, b".") and None):
                made(open_run(folder, teacher), progress=progress)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    heard = 0
    while heard <= events and select.select([reader], [], [], 300)[0] and os.read(reader, 1):
        heard += 1
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed by itself"
    return os.WIFSIGNALED(status)


@pytest.mark.slow
def test_killed_at_twenty_moments_it_ends_as_an_uninterrupted_one(
    base: RunContext, whole: Finalized, tmp_path: Path, toy_teacher: Teacher
) -> None:
    """Each of 20 copies of the run is killed once, at a random event and a random time after it, then gone on with."""
    keys = (
        [half.bank_key for half in (whole.variant.vae.encoder, whole.variant.vae.decoder)] if whole.variant.vae else []
    )

    def fresh(folder: Path) -> RunContext:
        ignored = ("finalized", "finalize", "vae-images.safetensors", *(f"{key}.*" for key in keys))
        shutil.copytree(base.directory.path, folder, ignore=shutil.ignore_patterns(*ignored))
        return open_run(folder, toy_teacher)

    events = 0

    def count(phase: Phase) -> None:
        nonlocal events
        events += 1

    progress, start = Progress(silent=True), time.monotonic()
    with progress.followed(count):
        expected = weights(made(fresh(tmp_path / "timed"), progress=progress).folder)
    an_event = (time.monotonic() - start) / events
    assert expected == weights(whole.folder)
    rng, in_time = random.Random(20), 0
    for kill in range(20):
        run = fresh(tmp_path / f"{kill}")
        in_time += killed(run.directory.path, toy_teacher, rng.randrange(events), 2 * rng.random() * an_event)
        end = made(run)
        assert weights(end.folder) == expected, f"kill {kill}"
        assert not [path for path in end.folder.parent.iterdir() if path.name.startswith(".")], f"kill {kill}"
        shutil.rmtree(run.directory.path)
    assert in_time >= 10  # most moments are before the end
