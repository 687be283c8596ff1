"""A run for an NPU that is not here: latencies are its profile's, and never stand for what this machine measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latency_predictors.npu.profile import NpuProfile
from latency_predictors.profile_file import load_profile
from nas.config import load_recipe
from nas.export.card import render_card
from nas.export.closing import ClosingRow
from nas.export.diffusers import annotate_variant, export_diffusers
from nas.fidelity.paired import Fidelity
from nas.progress import Progress
from nas.report import render
from nas.run import finish, phases
from nas.run.context import RunContext
from nas.run.directory import RunDirectory
from nas.run_data import read_run
from nas.teacher import Teacher, load_shapes, num_text_tokens
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace
from search_spaces.surgery import assemble, teacher_candidate
from tests import synthetic_run
from tests.latency_predictors.made_up import measurement

NPU = "sm8750-w8a16"
OPTIONS = {
    "E1": ["RARA", "R"],
    "E2": ["RARA"],
    "E3": ["RARA", "R"],
    "deep": ["none"],
    "D3": ["RARARA"],
    "D2": ["RARARA", "R"],
    "D1": ["RARARA"],
}


@pytest.fixture(scope="module")
def run(toy_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """A run whose recipe names the NPU, after its calibration phase."""
    folder = tmp_path_factory.mktemp("npu")
    (folder / "small.yaml").write_text(SearchSpace(name="small", options=OPTIONS).model_dump_json(by_alias=True))
    recipe = load_recipe(None, [f"space={folder / 'small.yaml'}", f"calibration.profile={NPU}"])
    run = RunContext(recipe, RunDirectory(folder / "run"))
    run.__dict__["teacher"] = toy_teacher  # loaded once for all tests
    run.directory.create(recipe)
    phases.calibrate(run, Progress())
    return run


def test_the_search_goes_by_the_profile(run: RunContext) -> None:
    every = run.space.enumerate()
    unet, _ = load_shapes("toy")
    expected = NpuProfile.load(NPU).tabulate(unet, run.space, 8, num_text_tokens("toy")).latency_ms(every)
    assert run.known_costs.matrix(every)[:, 0] == pytest.approx(expected)
    facts = json.loads((run.directory.path / "space.json").read_text())
    assert facts["latency_ms"] == pytest.approx([expected.min(), expected.max()])
    assert load_profile(run.directory.profile) == NpuProfile.load(NPU), "the run keeps what it went by"
    tight = run.recipe.model_copy(update={"picks": run.recipe.picks.model_copy(update={"max_latency_ms": 1e-3})})
    other = RunContext(tight, run.directory)
    other.__dict__.update({name: run.__dict__[name] for name in ("teacher", "costs", "latency")})
    with pytest.raises(UserError, match=f"reaches {expected.min():.3g} to {expected.max():.3g} ms"):
        phases.check_budgets(other)


def test_predictions_and_measurements_stand_apart(run: RunContext, tmp_path: Path) -> None:
    candidate = run.space.decode(run.space.enumerate()[-1])
    fidelity = Fidelity(noise_error=0.1, latent_error=0.2, tafid=1.0, num_samples=4, seconds=0.1)
    item = finish.Finished(assemble(run.teacher.unet, candidate), fidelity, fidelity, True)
    here = measurement("prime", 7.5)
    row = ClosingRow(name="prime", candidate=candidate.id, num_params=1, measurement=here, speed_up=2.0)
    found = finish._predicted(run, row, item)
    wanted = run.latency.predict(run.space.encode(candidate)[None])
    assert found["predicted_ms"] is None and "SM8750" in found["target_device"]
    for name in ("ms", "low_ms", "high_ms"):
        assert found[f"target_{name}"] == getattr(wanted, "latency_ms" if name == "ms" else name)[0]
    # The teacher is no candidate of this space, yet its latency follows from its shapes.
    teacher = row.model_copy(update={"name": "teacher", "candidate": teacher_candidate(run.teacher.unet).id})
    assert finish._predicted(run, teacher, None)["target_ms"] > run.latency.latency_ms(run.space.enumerate()).max()
    # A profile of the very device that is measured: one field, as ever.
    own = RunContext(run.recipe, run.directory)
    facts = {"device": here.device, "runtime": here.runtime, "precision": here.precision, "threads": here.threads}
    own.__dict__.update({name: run.__dict__[name] for name in ("teacher", "costs", "latency", "profile")})
    own.__dict__["device"] = type(run.device)(**facts, fitted_from="blocks", error="", notes=())
    assert finish._predicted(own, row, item) == {"predicted_ms": wanted.latency_ms[0]}

    variant = export_diffusers(run.teacher, item.student, tmp_path / "v", finish.card(run, "prime", item), onnx=False)
    known = variant.latency.model_copy(update={"measured_ms": 7.5, "teacher_measured_ms": 15.0, "measured_device": "d"})
    text = render_card(annotate_variant(tmp_path / "v", latency=known))
    assert f"predicted latency on {run.device.title} | {wanted.latency_ms[0]:.2f} ms" in text
    assert "measured latency on d | 7.50 ms | 15.00 ms" in text


def test_the_report_says_what_is_predicted_and_what_measured(run: RunContext, tmp_path: Path) -> None:
    folder = synthetic_run.make_run(tmp_path / "run")
    (folder / "device_profile.json").write_bytes(run.directory.profile.read_bytes())
    closing = json.loads((folder / "closing.json").read_text())
    for number, row in enumerate(closing["rows"]):
        row |= {"predicted_ms": None, "target_device": run.device.title, "target_ms": 40.0 / (1 + number)}
        row |= {"target_low_ms": 30.0 / (1 + number), "target_high_ms": 50.0 / (1 + number)}
    (folder / "closing.json").write_text(json.dumps(closing))
    data = read_run(folder)
    html = render(data)
    assert data.missing == {} and data.device is not None
    assert (data.device.fitted_from, data.device.points) == ("public", ())
    table = html[html.index("<h2>The models") : html.index("<h2>Images")]
    assert [table.count(f">{name}</th>") for name in ("predicted there", "measured here", "predicted", "measured")] == [
        1, 1, 0, 0,
    ]  # fmt: skip
    assert "20.0 ms<small>15.0 to 25.0</small>" in table and "2.00×" in table, "half the teacher's 40 ms there"
    section = html[html.index("How latency is predicted") :]
    assert "no stage option or candidate was measured on the device" in section
    profile = NpuProfile.load(NPU)
    errors = sorted(abs(e.error_pct) for e in profile.errors.without_diffusion)
    assert f"Median error {np.median(errors):.0f} %, worst {errors[-1]} %" in section
    for note in profile.notes:
        assert note.replace("'", "&#x27;") in section
