"""Tables of evaluated candidates: what is read, what is refused, and the hypervolume that samplers are judged by."""

import itertools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.search.decisions import ListedSpace
from nas.search.table import TableSource, read_table
from search_spaces.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


GRID = "arch,acc,params,flops\n00,50,1,10\n01,60,2,20\n10,70.5,3,15\n11,90,4,40\n02,80,3,30\n12,95,9,90\n"


def test_a_whole_grid(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", GRID), error_from="acc")
    assert type(table.space).__name__ == "GridSpace" and table.space.sizes == (2, 3)
    assert table.architectures == ("00", "01", "02", "10", "11", "12")  # as enumerate() lists them
    assert table.values.tolist()[:3] == [[50, 1, 10], [40, 2, 20], [20, 3, 30]]
    assert table.known == (False, True, True) and table.notes == ("error = 100 - acc",)
    assert table.known_costs(table.space.enumerate()).tolist() == table.values[:, 1:].tolist()
    assert table.front.tolist() == [0, 1, 2, 3, 4, 5]


def test_accuracies_as_shares_and_columns_minimised_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "net,top1,ms,error\n0,0.5,3,7\n1,1.0,4,8\n")
    made = read_table(path, "net", ("error", "ms"), ("ms",), error_from="top1")
    assert made.values.tolist() == [[0.5, 3], [0.0, 4]] and made.notes == ("error = 1 - top1",)
    assert read_table(path, "net", ("error", "ms"), ("ms",)).values.tolist() == [[7, 3], [8, 4]]


def test_a_part_of_a_grid_lists_its_rows(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "arch,error,params,flops\n201,1,2,3\n000,4,5,6\n011,7,8,9\n"))
    assert isinstance(table.space, ListedSpace) and len(table) == 3
    assert table.architectures == ("000", "011", "201")
    assert (table.space.rank(table.space.enumerate()) == [0, 1, 2]).all()
    assert "3 of the grid's 8 candidates" in table.notes[0]


def test_more_decisions_than_64_bits_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = sorted({"".join(map(str, row)) for row in rng.integers(0, 9, (50, 25))})
    lines = [f"{text},{i},{i + 1},{i + 2}" for i, text in enumerate(texts)]
    table = read_table(write(tmp_path / "t.csv", "\n".join(["arch,error,params,flops", *lines])))
    assert table.values[:, 0].tolist() == list(range(len(texts)))  # sorted texts: sorted rows
    assert (table.space.rank(table.space.enumerate()) == np.arange(len(texts))).all()


def test_numbers_with_something_between_and_decision_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "arch,a,b,error,ms\n2-10,2,10,1,1\n10-2,10,2,2,2\n2-2,2,2,3,3\n10-10,10,10,4,4\n")
    table = read_table(path, objectives=("error", "ms"), known=("ms",))
    assert [d.values for d in table.space.decisions] == [("2", "10")] * 2  # by size, not as text
    assert table.values[:, 0].tolist() == [3, 1, 2, 4]
    named = read_table(path, objectives=("error", "ms"), known=("ms",), decisions=("a", "b"))
    assert [d.name for d in named.space.decisions] == ["a", "b"] and (named.values == table.values).all()


def test_parquet_says_the_same(tmp_path: Path) -> None:
    frame = pd.read_csv(write(tmp_path / "t.csv", GRID), dtype={"arch": str})
    frame.to_parquet(tmp_path / "t.parquet")
    tables = [read_table(tmp_path / name, error_from="acc") for name in ("t.csv", "t.parquet")]
    assert tables[0].architectures == tables[1].architectures and (tables[0].values == tables[1].values).all()


def test_repeated_and_unusable_rows_are_said(tmp_path: Path) -> None:
    text = "arch,error,params,flops,hours\n0,1,5,7,1\n1,2,5,7,2\n0,3,5,7,2\n2,,5,7,2\n3,inf,5,7,2\n1,2,5,7,4\n"
    table = read_table(write(tmp_path / "t.csv", text), columns=("hours",))
    assert table.architectures == ("0", "1") and table.values[:, 0].tolist() == [2, 2]
    assert table.columns["hours"].tolist() == [1.5, 3]
    assert table.notes[:2] == (
        "2 of 6 rows left out: a value is missing or not finite",
        "2 rows repeat an architecture: the mean of its rows is taken",
    )


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {}, "cannot be read as csv"),
        ("arch,error,params,flops\n", {}, "has no rows"),
        ("net,error,params,flops\n0,1,1,1\n", {}, "no column 'arch'; it has net, error"),
        ("arch,error,params\n0,1,1\n", {}, "no column 'flops'"),
        (
            "arch,error,params,flops\n00,1,1,1\n0,1,1,1\n01,1,1,1\n",
            {},
            "'0' in data row 2 has 1 decisions, others have 2",
        ),
        ("arch,error,params,flops\n0,1,1,1\n,1,1,1\n", {}, "data row 2 has no arch"),
        ("arch,error,params,flops\n0,1,1,x\n1,1,1,1\n", {}, "flops in data row 1 is 'x', no number"),
        ("arch,error,params,flops\n0,,1,1\n1,,1,1\n2,1,1,1\n", {}, "2 of 3 rows lack"),
        (GRID, {"error_from": "flops", "objectives": ("e", "params"), "known": ("params",)}, None),
        (GRID, {"error_from": "top"}, "no column 'top'"),
        (GRID, {}, "no column 'error'"),
        (GRID.replace("95", "950"), {"error_from": "acc"}, "acc reaches from 50 to 950; legal are accuracies"),
        (GRID, {"error_from": "acc", "objectives": ("e", "f", "params"), "known": ("params",)}, "makes one objective"),
        (GRID, {"error_from": "acc", "known": ("macs",)}, "--known macs: not minimised"),
        (GRID, {"error_from": "acc", "known": ("error", "params", "flops")}, "nothing to search for"),
        (GRID, {"objectives": ("params",), "known": ()}, "two or more columns"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, text: str, options: dict, words: str | None) -> None:
    path = write(tmp_path / "t.csv", text)
    if words is None:  # whatever lies between 0 and 100 may be an accuracy
        assert read_table(path, **options).values[0, 0] == 90
        return
    with pytest.raises(UserError, match=words) as caught:
        read_table(path, **options)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    for name, words in (
        ("none.csv", "No such file"),
        ("t.xlsx", "legal are .csv and .parquet"),
        ("b.parquet", "Parquet"),
    ):
        if not name.startswith("none"):
            (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=words):
            read_table(tmp_path / name)


def cells(points: np.ndarray, reference: np.ndarray) -> int:
    """Hypervolume of whole numbers by counting the unit cells that are dominated."""
    ranges = [range(int(limit)) for limit in reference]
    return sum(any((point <= cell).all() for point in points) for cell in map(np.array, itertools.product(*ranges)))


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=2, max_size=12),
    random=st.randoms(use_true_random=False),
)
def test_shares_of_the_hypervolume_count_dominated_cells(values, random, tmp_path_factory) -> None:
    lines = [f"{i:02},{a},{b},{c}" for i, (a, b, c) in enumerate(values)]
    path = write(tmp_path_factory.mktemp("t") / "t.csv", "\n".join(["arch,error,params,flops", *lines]))
    table = read_table(path)
    reference = np.array(values).max(axis=0)
    assert (table.reference() == reference).all()
    total = cells(table.values, reference)
    if total == 0:
        with pytest.raises(UserError, match="no hypervolume"):
            table.tracker()
        return
    tracker, rows = table.tracker(), list(range(len(table)))
    random.shuffle(rows)
    for number, row in enumerate(rows, 1):
        assert tracker.add(row) == pytest.approx(cells(table.values[rows[:number]], reference) / total, abs=1e-12)
    assert tracker.share == 1


def test_the_tight_reference_leaves_out_the_worse_half(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", GRID), error_from="acc")
    # Errors 50 40 20 29.5 10 5: median 24.75; front points below it have params 3, 4, 9 and flops 30, 40, 90.
    assert table.reference("tight") == pytest.approx([24.75, 1 + 1.1 * 8, 10 + 1.1 * 80])
    tracker = table.tracker("tight")
    assert [tracker.add(row) for row in (0, 1, 3)] == [0, 0, 0] and tracker.add(2) > 0
    assert max(tracker.add(row) for row in (4, 5)) == pytest.approx(1)


@pytest.mark.skipif("NANOSD_DATA" not in os.environ, reason="NANOSD_DATA names no folder with the public tables")
def test_public_tables() -> None:
    data = Path(os.environ["NANOSD_DATA"])
    macro = TableSource(str(data / "nas_bench_macro_cifar10.csv"), error_from="mean_acc").read()
    assert len(macro) == 3**8 and macro.space.sizes == (3,) * 8 and macro.architectures[1] == "00000001"
    assert macro.values[0].tolist() == pytest.approx([54.6367, 387882, 7713280])
    fbnet = read_table(data / "fbnet_latency_ms.csv", "ops", ("pixel3", "gold_6240"), ("gold_6240",))
    assert len(fbnet) == 5000 and fbnet.space.sizes == (9,) * 22 and isinstance(fbnet.space, ListedSpace)
