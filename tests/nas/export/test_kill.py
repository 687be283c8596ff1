"""SIGKILL during an export leaves the old folder or the new one, never a half one that looks finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_killed_exports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_export.py"), str(tmp_path / "v"), "2", "3"],
        capture_output=True,
        text=True,
        cwd=HERE.parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parents[2])},
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
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
