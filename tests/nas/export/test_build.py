"""`nanosd build`: what is on disk computes what the candidate does, and what cannot be built is said in one line."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from experiments.exits import run_app
from nas.export.build import CANDIDATE_FILE, build_candidate, find_candidate
from nas.export.inputs import unet_inputs
from nas.export.load import load_variant
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space
from search_spaces.surgery import assemble
from search_spaces.vae import StagedVAE, assemble_vae

if TYPE_CHECKING:
    from nas.teacher import Teacher

STANDARD = "RA-RA-RA-none-RARA-RARA-RARA"
STAGED = "RA-RR-R-none-RAR-RA-R@3"
SLIM = "R_w0.5_sep-RA_w0.5_f0.5_h0.5_self-RR_w0.5-RR.RAR.RRR-RRA_h0.5_cross-RA_h0.5-RA@3"
TINY = "8x1.12x2.4x1.16x1"
PIPELINE = f"{STAGED}-{TINY}-teacher-2"


def joint_space() -> SearchSpace:
    options = {stage: [name] for stage, name in Candidate.from_id(STAGED).options.items()}
    return SearchSpace.model_validate(
        {
            "name": "joint",
            "description": "one U-Net, two encoders",
            "options": {**options, "VE": ["teacher", TINY], "VD": ["teacher"], "steps": ["1", "2"]},
            "candidates": {"small": PIPELINE},
        }
    )


def load(home: str, folder: Path) -> Any:
    module, _, name = home.rpartition(".")
    return getattr(import_module(module), name).from_pretrained(folder)


@pytest.mark.parametrize("name", [STANDARD, STAGED, SLIM])
def test_the_unet_on_disk_is_the_candidate(teacher: Teacher, tmp_path: Path, name: str) -> None:
    candidate = Candidate.from_id(name)
    built = build_candidate(teacher, candidate, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [CANDIDATE_FILE, "unet"]
    assert built.loads_with["unet"].startswith("diffusers.") == (built.unet_not_standard_because is None)
    assert (name == STANDARD) == (built.unet_not_standard_because is None)
    assert built.random_weights == () and built.steps is None
    staged = assemble(teacher.unet, candidate, copy=False)
    inputs = unet_inputs(staged, teacher.num_tokens, timestep=300)
    loaded = load(built.loads_with["unet"], tmp_path / "out" / "unet")
    with torch.no_grad():
        assert torch.equal(loaded(*inputs).sample, staged(*inputs).sample)
    assert built.num_params == {"unet": sum(p.numel() for p in loaded.parameters())}


@pytest.mark.parametrize("vae", [(TINY, "teacher"), ("teacher", TINY), ("teacher", "teacher")])
def test_a_pipeline_has_a_vae_too(teacher: Teacher, tmp_path: Path, vae: tuple[str, str]) -> None:
    candidate = Candidate.from_id(f"{STANDARD}-{'-'.join(vae)}-2")
    built = build_candidate(teacher, candidate, tmp_path / "out", seed=3)
    assert built.steps == 2
    assert built.random_weights == tuple(s for s, name in zip(("VE", "VD"), vae, strict=True) if name == TINY)
    own = vae == ("teacher", "teacher")
    assert built.loads_with["vae"] == ("diffusers.AutoencoderKL" if own else "search_spaces.vae.StagedVAE")
    loaded = load(built.loads_with["vae"], tmp_path / "out" / "vae")
    expected = assemble_vae(teacher.vae, candidate, seed=3)
    x = torch.rand(1, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded(x).sample, expected(x).sample)
    assert isinstance(loaded, StagedVAE) is not own


def test_building_what_was_built_gives_the_same_bytes(teacher: Teacher, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    build_candidate(teacher, Candidate.from_id(PIPELINE), first)
    build_candidate(teacher, find_candidate(str(first / CANDIDATE_FILE), teacher), second)
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 5
    assert [str(file) for file in files if (first / file).read_bytes() != (second / file).read_bytes()] == []
    assert str(tmp_path) not in (first / "unet" / "config.json").read_text() + (first / CANDIDATE_FILE).read_text()


def test_a_candidate_is_found_by_id_name_and_file(teacher: Teacher, tmp_path: Path) -> None:
    candidate, space = Candidate.from_id(PIPELINE), joint_space()
    assert find_candidate(PIPELINE, teacher) == candidate
    assert find_candidate(STAGED, teacher) == candidate.unet
    assert find_candidate("small", teacher, space) == find_candidate(PIPELINE, teacher, space) == candidate
    file = tmp_path / "record.json"
    sorted_by_name = dict(sorted(candidate.options.items()))
    assert list(sorted_by_name) != list(candidate.options)
    file.write_text(json.dumps({"candidate": "x", "options": sorted_by_name, "outcome": "done"}))
    assert find_candidate(str(file), teacher) == find_candidate(str(file), teacher, space) == candidate


def test_a_name_without_its_space_says_what_to_add(teacher: Teacher) -> None:
    with pytest.raises(UserError, match=r"'bk-sdm-tiny' is a name, not an id; .* add --space bk-sdm "):
        find_candidate("bk-sdm-tiny", teacher)
    with pytest.raises(UserError, match=r"'nobodys' has 1 options; legal .* such as RA-RA-RA-none-RA-RA-RA$"):
        find_candidate("nobodys", teacher)


def test_an_id_too_long_for_a_file_name_is_an_id(teacher: Teacher) -> None:
    levels = ".".join(["1000x10"] * 40)
    name = f"{STAGED}-{levels}-{levels}-1"
    assert len(name) > 255 and find_candidate(name, teacher).id == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nope", "names no candidate 'nope'; legal are: small"),
        ("R-R", "has 2 options; legal is one per stage"),
        (STANDARD, "has 7 options; legal is one per stage E1-E2-E3-deep-D3-D2-D1-VE-VD-steps"),
        (STAGED, f"such as {STAGED}-teacher-teacher-1"),
        (f"{STANDARD}-teacher-teacher-1", "is not in search space 'joint'"),
        ("gone.json", "candidate file gone.json does not exist"),
        ("folder/gone", "candidate file folder/gone does not exist"),
    ],
)
def test_what_is_no_candidate_of_a_space(teacher: Teacher, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        find_candidate(text, teacher, joint_space())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"[]", "must be an object with 'options'"),
        (b'{"options": {"E1": 3}}', "must be an object with 'options'"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_files_that_are_no_candidates(teacher: Teacher, tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        find_candidate(str(file), teacher)
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"E1": "RA"}, "candidate has stages E1; this teacher's are E1 E2 E3"),
        ({**Candidate.from_id(STANDARD).options, "VE": TINY}, "has no VD, steps; a pipeline has VE, VD and steps"),
        ({**Candidate.from_id(PIPELINE).options, "VD": "8x1"}, "VD: '8x1' has 1 levels, but the teacher's VAE has 4"),
        ({**Candidate.from_id(PIPELINE).options, "D1": "QQ"}, "D1: 'QQ' is not a word over R and A"),
    ],
)
def test_what_cannot_be_built_leaves_nothing(
    teacher: Teacher, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build_candidate(teacher, Candidate(options=options), tmp_path / "out")
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(teacher: Teacher, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for folder in (tmp_path, kept):
        with pytest.raises(UserError, match="exists and is not empty; give a new or an empty one"):
            build_candidate(teacher, Candidate.from_id(STANDARD), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"] and kept.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    build_candidate(teacher, Candidate.from_id(STANDARD), empty)
    assert (empty / CANDIDATE_FILE).is_file()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments.cli import app

    out = tmp_path / "out"
    assert run_app(app, ["build", "smallest", "--space", "nanosd", "-o", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["candidate"] == load_space("nanosd").named("smallest").id
    written = json.loads((out / CANDIDATE_FILE).read_text())
    assert {"folder": str(out), **written} == printed
    assert run_app(app, ["build", "smallest", "--space", "nanosd", "-o", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    again = tmp_path / "again"
    assert run_app(app, ["build", str(out / CANDIDATE_FILE), "-o", str(again)]) == 0
    names = run_printed(capsys.readouterr().out)
    assert sum(p.numel() for p in names["unet"].parameters()) == printed["num_params"]["unet"]


def run_printed(output: str) -> dict[str, Any]:
    """Run the Python that the command prints for its user; the names that it leaves."""
    names: dict[str, Any] = {}
    code = output[output.index("from ") :]
    exec(code, names)
    return names


@pytest.mark.parametrize("candidate", [PIPELINE, STANDARD, f"{STANDARD}-teacher-teacher-1"])
def test_what_it_prints_makes_pictures(
    teacher: Teacher, tmp_path: Path, capsys: pytest.CaptureFixture[str], candidate: str
) -> None:
    from experiments.cli import app

    out = tmp_path / "it's"
    assert run_app(app, ["build", candidate, "-o", str(out)]) == 0
    names = run_printed(capsys.readouterr().out)
    pipeline = names["pipeline"]
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert pipeline.unet is names["unet"] and pipeline.vae is names.get("vae", pipeline.vae)
    assert names["image"].size == (teacher.image_size, teacher.image_size)
    with pytest.raises(UserError, match="networks written by `nanosd build`; load those with the classes"):
        load_variant(out)
    usual = tmp_path / "usual"
    usual.touch()
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) >= 3 and {path.stat().st_mode for path in files} == {usual.stat().st_mode}


@pytest.mark.parametrize(
    "command",
    [
        ["search", "--run"],
        ["search", "--dry-run", "--run"],
        ["calibrate", "--out"],
        ["calibrate", "--dry-run", "--out"],
    ],
)
def test_runs_refuse_spaces_of_pipelines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    from experiments.cli import app

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "joint.yaml"
    file.write_text(joint_space().model_dump_json(by_alias=True))
    assert run_app(app, [*command, "out", "--set", f"space={file}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "search space 'joint' has decisions beyond the U-Net (VE, VD, steps)" in line
    assert list(tmp_path.iterdir()) == [file], "refused before anything is written"
