"""The space of the made-up device, counted once."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.calibration.target import Target
from tests.experiments.made_up_device import SPACE


@pytest.fixture(scope="session")
def space_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "few.yaml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="session")
def target(space_file: Path) -> Target:
    return Target.of(str(space_file), "toy")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where the test works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def counted(target: Target, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The space's kernel sums are counted once, not at every call of the command: that takes a second."""
    monkeypatch.setattr(Target, "of", lambda *_: target)
    return target
