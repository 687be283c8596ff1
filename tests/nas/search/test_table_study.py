"""Every sampler of the recipe finds its way through a table, whole or with gaps."""

from pathlib import Path

import numpy as np
import pytest

from nas.search.decisions import ExhaustedError
from nas.search.sampler import SAMPLERS, check_sampler
from nas.search.simulation import Durations, Schedule, simulate
from nas.search.table import CandidateTable, read_table
from nas.search.table_study import StudyDoor
from search_spaces.errors import UserError


def installed(name: str) -> bool:
    try:
        return check_sampler(name) == name
    except UserError:
        return False


def marks(name: str) -> list[pytest.MarkDecorator]:
    missing = pytest.mark.skipif(not installed(name), reason=f"{name} is not installed")
    return [missing, pytest.mark.slow] if name in ("gp", "qlognehvi") else [missing]


NAMES = [pytest.param(name, marks=marks(name)) for name in SAMPLERS]


@pytest.fixture(params=["whole", "gaps"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> CandidateTable:
    rows = [
        (a, b, c) for a in range(3) for b in range(2) for c in range(3) if request.param == "whole" or (a + b + c) % 2
    ]
    lines = [f"{a}{b}{c},{9 - a - 2 * b - a * c:.1f},{1 + a + b},{1 + a * b + c}" for a, b, c in rows]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["arch,error,params,flops", *lines]))
    return read_table(path)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_once_and_then_nothing(name: str, table: CandidateTable) -> None:
    door = StudyDoor(table, name, 0)
    waiting: list[int] = []
    seen: list[int] = []
    for _ in range(len(table)):
        seen.append(door.ask())
        waiting.append(seen[-1])
        if len(waiting) == 3:  # two are pending at any time, and every fifth fails
            row = waiting.pop(0)
            door.tell(row, failed=len(seen) % 5 == 0)
    assert sorted(seen) == list(range(len(table)))
    with pytest.raises(ExhaustedError):
        door.ask()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_asks_for_the_same_rows(name: str, table: CandidateTable) -> None:
    def rows(seed: int) -> list[int]:
        durations = Durations.draw(table, 1.0, spread=0.2)
        return simulate(StudyDoor(table, name, seed), table, durations, Schedule(2, 7)).rows.tolist()

    assert rows(0) == rows(0)
    assert any(rows(0) != rows(seed) for seed in (1, 2, 3))


def test_an_unknown_sampler_is_one_line(table: CandidateTable) -> None:
    with pytest.raises(UserError, match="unknown sampler 'cma'; legal are random"):
        StudyDoor(table, "cma", 0)  # type: ignore[arg-type]


def test_known_costs_are_the_tables(table: CandidateTable) -> None:
    matrix = table.space.enumerate()[::-1]
    assert (table.known_costs(matrix) == table.values[::-1, 1:]).all() and np.isfinite(table.known_costs(matrix)).all()


def test_a_reference_point_says_what_is_of_interest(table: CandidateTable) -> None:
    """Told that only the better half counts, the sampler's model goes there first, as the hypervolume there shows."""
    durations = Durations.draw(table, 1.0)
    num = len(table) - 2
    told, own = (
        simulate(StudyDoor(table, "ehvi", 0, reference=given), table, durations, Schedule(1, num), "tight")
        for given in ("tight", None)
    )
    assert told.share[-1] == 1 and told.rows.tolist() != own.rows.tolist()
    first = told.evaluations_to(1)
    assert first is not None and first <= (own.evaluations_to(1) or num)
