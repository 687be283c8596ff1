"""`nanosd predict`: from the profile alone, whatever space it was calibrated for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.cli import app
from experiments.exits import run_app
from latency_predictors.profile import DeviceProfile
from search_spaces.candidate import Candidate
from search_spaces.space import SearchSpace
from tests.latency_predictors.made_up import synthetic

README_EXAMPLE = "RARA-RA-R-none-RARARA-RR-R@3"
# Its first stages have options that the preset nanosd does not have.
OPTIONS = {
    "E1": ["RARA", "RARA_w0.5"],
    "E2": ["RARA", "RA"],
    "E3": ["RARA", "R"],
    "deep": ["RR.RAR.RRR", "none"],
    "D3": ["RARARA", "RR_sep"],
    "D2": ["RARARA", "RR"],
    "D1": ["RARARA", "R@3"],
}
OTHER = "RARA_w0.5-RA-R-RR.RAR.RRR-RR_sep-RR-R@3"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    space = SearchSpace.model_validate({"name": "own", "options": OPTIONS})
    synthetic(space)[0].save(tmp_path / "profile.json")
    (tmp_path / "own.yaml").write_text(space.model_dump_json(by_alias=True))
    return tmp_path / "profile.json"


def test_a_profile_predicts_the_candidates_of_its_own_space(profile: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = DeviceProfile.load(profile)
    own = loaded.own_space
    expected = [
        {"candidate": text, "latency_ms": pytest.approx(loaded.latency_ms(own, own.encode(Candidate.from_id(text)))[0])}
        for text in (README_EXAMPLE, OTHER)
    ]
    assert expected[0]["latency_ms"] != expected[1]["latency_ms"]
    for space in ([], ["--space", str(profile.with_name("own.yaml"))]):
        assert run_app(app, ["predict", str(profile), README_EXAMPLE, OTHER, *space, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([OTHER, "--space", "nanosd"], "option 'RARA_w0.5' of stage E1 is not in search space 'nanosd'"),
        (
            [README_EXAMPLE.replace("RARARA", "RRR")],
            "option 'RRR' of stage D3 is not in search space 'own'; legal are RARARA",
        ),
        (["R-R"], "candidate 'R-R' has 2 options; legal is one per stage E1-E2-E3-deep-D3-D2-D1"),
        (
            [README_EXAMPLE, "--space", "nanosd-joint"],
            "has 7 options; legal is one per stage E1-E2-E3-deep-D3-D2",
        ),
    ],
)
def test_what_it_cannot_predict(
    profile: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["predict", str(profile), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
