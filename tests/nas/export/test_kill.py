"""SIGKILL during an export leaves the old folder or the new one, never a half one that looks finished."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import exit_code, start_script

SCRIPT = Path(__file__).with_name("killed_export.py")


def test_killed_exports(tmp_path: Path) -> None:
    out, said = tmp_path / "out", tmp_path / "said"
    (tmp_path / "exports").mkdir()
    assert exit_code(start_script(SCRIPT, tmp_path / "exports" / "v", "2", "3", stdout=out, stderr=said)) == 0, (
        said.read_text()
    )
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    for old in ("absent", "old"):
        *moments, last = [row for row in rows if row["old"] == old]
        assert last["finished"] == "new"
        assert len(moments) >= 5
        for row in moments:
            assert row["killed"], row
            # Between the two renames nothing lies there for a moment; recovery puts the old folder back.
            assert row["seen"] in (old, "new", "absent"), row
            assert row["recovered"] in (old, "new"), row
            assert row["leftovers"] == [], row
        assert {row["recovered"] for row in moments} == {old, "new"}, moments
