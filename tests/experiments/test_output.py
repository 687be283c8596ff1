"""What the command line prints."""

from __future__ import annotations

import sys

import pytest

from experiments.output import print_rows


def test_a_narrow_terminal_cuts_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    row = {f"column_{i}": 1.234 + i for i in range(8)} | {"candidate": "RARA-RARA-RARA-none-RARARA-RARARA-RARARA"}
    print_rows([row])
    text = capsys.readouterr().out
    assert "…" not in text
    assert all(f"{1.234 + i:.4g}" in text for i in range(8))
