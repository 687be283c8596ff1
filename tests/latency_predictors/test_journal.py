"""A journal whose disk is full says so in one line and stays whole."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from latency_predictors.journal import Journal
from search_spaces.atomic import WriteError


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As on a disk that has no more room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_does_not_fit_is_not_there_at_all(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    journal = Journal(path, {"device": "d"})
    journal.finish(["E1/RA"])
    before = path.read_bytes()
    with files_of_at_most(len(before) + 20), pytest.raises(WriteError) as found:
        journal.fail("E1/R", "a reason that is longer than what is left")
    assert str(path) in str(found.value) and "ulimit -f" in str(found.value) and "\n" not in str(found.value)
    assert path.read_bytes() == before
    journal.finish(["E1/R"])  # there is room again
    assert Journal(path, {"device": "d"}).finished == ["E1/RA", "E1/R"]
