"""What the command line prints."""

from __future__ import annotations

import sys

import pytest

from experiments.output import heading, print_mapping, print_rows


def test_a_narrow_terminal_cuts_no_number(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    row = {f"column_{i}": 1.234 + i for i in range(8)} | {"candidate": "RARA-RARA-RARA-none-RARARA-RARARA-RARARA"}
    print_rows([row])
    text = capsys.readouterr().out
    assert "…" not in text
    assert all(f"{1.234 + i:.4g}" in text for i in range(8))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("latency_ms", "latency (ms)"),
        ("about_seconds", "time, about (s)"),
        ("max_seconds", "max (s)"),
        ("drift_pct", "drift (%)"),
        ("after.num_macs", "after MACs"),
        ("whole_unets", "whole U-Nets"),
        ("pick", "pick"),
        ("s", "s"),
        ("D1.RA_w0.5", "D1.RA_w0.5"),
        ("RA_w0.5", "RA_w0.5"),
    ],
)
def test_keys_are_written_in_words(key: str, words: str) -> None:
    assert heading(key) == words


def test_a_mapping_is_printed_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_mapping({"num_networks": 3, "fit": {"median_error_pct": 1.25}})
    assert capsys.readouterr().out == "networks              3\nfit median error (%)  1.25\n"
