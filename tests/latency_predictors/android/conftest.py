from __future__ import annotations

from pathlib import Path

import pytest

from tests.latency_predictors.android.phones import FakePhone


@pytest.fixture
def phone(tmp_path: Path) -> FakePhone:
    return FakePhone(tmp_path / "phone")
