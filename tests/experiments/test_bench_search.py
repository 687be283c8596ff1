"""`python -m experiments.bench.search`: its JSON, its medians, and what it says of what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest

from experiments.bench.search import compare, main, summary
from experiments.bench.search_runs import METHODS, UNSEEN, WITH_PRIOR, Job, Run, run_job
from nas.search.table import TableSource


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [
        f"{a}{b}{c},{50 + 5 * a + 3 * b + 8 * c + rng.random():.3f},{1 + a + 2 * b + c},{2 + b + 3 * c}"
        for a in range(4)
        for b in range(4)
        for c in range(3)
    ]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["arch,acc,params,flops", *lines]))
    return path


def source(table: Path) -> TableSource:
    return TableSource(str(table), error_from="acc")


def test_the_documented_command_prints_the_documented_json(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--arch", "arch", "--minimize", "error,params,flops", "--known", "params,flops", "--error-from", "acc"]
    more = ["--methods", "random,tpe", "--seeds", "3", "--budget", "30", "--processes", "1", "--json"]
    assert main(["--table", str(table), *arguments, *more]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["methods"]) == ["random", "tpe"]
    for row in found["methods"].values():
        assert list(row["hv"]) == ["10", "20", "50", "100", "200"] and list(row["evals_to"]) == [
            "0.95",
            "0.98",
            "0.99",
            "0.995",
        ]
        assert 0 < row["hv"]["10"]["worst"] <= row["hv"]["10"]["median"] <= row["hv"]["20"]["median"] <= 1
        assert row["hv"]["50"] == {"median": None, "worst": None}  # beyond the budget
        assert 0 < row["proposal_ms"]["median"] <= row["proposal_ms"]["p90"]
    assert found["settings"]["notes"] == ["error = 100 - acc"] and found["settings"]["num_candidates"] == 48


def test_summary_of_runs_made_by_hand() -> None:
    runs = [
        Run("random", 0, tuple(np.linspace(0, 1, 101)[1:]), (), (1.0, 2.0)),
        Run("random", 1, tuple(np.linspace(0, 0.96, 101)[1:]), (), (3.0,)),
        Run("random", 2, (0.5,) * 9 + (1.0,) * 91, (), (4.0,)),
    ]
    found = summary(runs, 100)
    assert found["hv"]["10"] == {"median": pytest.approx(0.1), "worst": pytest.approx(0.096)}
    assert found["hv"]["200"] == {"median": None, "worst": None}
    assert found["evals_to"]["0.95"] == {"median": 95, "worst": 99}
    assert found["evals_to"]["0.99"] == {"median": 99, "worst": None}
    assert found["proposal_ms"]["median"] == 2.5
    # One that has nothing left to evaluate has what it has at any later time.
    found = summary([Run("ours", 0, (0.5, 1.0), (), (1.0, 1.0))], 50)["hv"]
    assert [found[n]["worst"] for n in ("10", "50", "100")] == [1.0, 1.0, None]


def test_all_of_a_table_is_all_of_its_hypervolume(table: Path) -> None:
    found = compare(source(table), ("random",), seeds=2, budget=99, batch=5, reference="tight")
    assert found["methods"]["random"]["evals_to"]["0.995"]["worst"] <= 48
    assert found["settings"]["reference"]["name"] == "tight"


def test_optunas_own_repeat_themselves_and_the_recipes_never_do(table: Path) -> None:
    own, recipes = (run_job(Job(source(table), name, 0, 48, 1, "worst")) for name in ("tpe", "tpe-unseen"))
    assert len(own.architectures) == 48 > len(set(own.architectures))
    assert len(set(recipes.architectures)) == 48 and recipes.share[-1] == 1


def test_a_journal_keeps_finished_runs(table: Path, tmp_path: Path) -> None:
    journal = tmp_path / "runs.jsonl"
    first = compare(source(table), ("random",), seeds=2, budget=5, journal=journal)
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines, lines[-1][:30]]))  # a kill in the middle of a line
    assert compare(source(table), ("random",), seeds=2, budget=5, journal=journal) == first  # times included
    compare(source(table), ("random",), seeds=3, budget=5, journal=journal)
    assert journal.read_text().count('"key"') == 4
    other = compare(source(table), ("random",), seeds=2, budget=6, journal=journal)
    assert other["methods"] != first["methods"]


@pytest.mark.slow
def test_processes_find_what_one_process_finds(table: Path) -> None:
    one, two = (
        compare(source(table), ("random",), seeds=3, budget=12, processes=n)["methods"]["random"] for n in (1, 2)
    )
    assert one["hv"] == two["hv"] and one["evals_to"] == two["evals_to"]


def test_a_method_without_its_library_is_null(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nas.search.qlognehvi.find_spec", lambda name: None)
    found = compare(source(table), ("qlognehvi", "random"), seeds=1, budget=3)
    assert found["methods"]["qlognehvi"] is None and found["methods"]["random"] is not None
    said = capsys.readouterr().err.splitlines()
    assert (
        said[0].startswith("qlognehvi: left out, sampler 'qlognehvi' needs BoTorch")
        and "nanosd-nas[botorch]" in said[0]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--methods", "cma"],
            f"--methods cma: no such method; legal are {', '.join((*METHODS, WITH_PRIOR, *UNSEEN))}",
        ),
        (["--methods", ""], "--methods : no such method"),
        (["--journal", "/nowhere/runs.jsonl"], "--journal /nowhere/runs.jsonl: No such file or directory; give a file"),
        (["--journal", __file__], "line 1 is no run; give one that this bench has written, or a new name"),
        (["--journal", "/bin/sh"], "--journal /bin/sh: no text; give one"),
        (["--seeds", "0"], "--seeds 0: legal is 1 or more"),
        (["--minimize", "params"], "two or more columns"),
        (["--error-from", "none"], "no column 'none'"),
    ],
)
def test_errors_are_one_line(table: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--table", str(table), "--error-from", "acc", "--budget", "3", "--methods", "random", *arguments]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_prior_is_told_to_one_method_only(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A prior that is the truth shows from the first candidates on: nothing else can know them."""
    rows = table.read_text().splitlines()
    told = [f"{row},{100 - float(row.split(',')[1])}" for row in rows[1:]]
    table.write_text("\n".join([rows[0] + ",expected", *told]))
    found = compare(source(table), ("ours-prior", "ours"), 3, 10, processes=1, prior="expected")["methods"]
    assert found["ours-prior"]["hv"]["10"]["worst"] > found["ours"]["hv"]["10"]["median"] + 0.05
    assert Job(source(table), "ours", 0, 8, 1, "worst").key("") != Job(
        source(table), "ours", 0, 8, 1, "worst", prior="expected"
    ).key("")
    arguments = ["--table", str(table), "--error-from", "acc", "--seeds", "1", "--budget", "2"]
    capsys.readouterr()
    for more in (["--methods", "ours-prior"], ["--methods", "ours", "--prior", "expected"]):
        assert main([*arguments, *more]) == 2
        assert capsys.readouterr().err == "method ours-prior and --prior COLUMN go together; give both or neither\n"
    assert main([*arguments, "--methods", "ours-prior", "--prior", "expected", "--known", "params"]) == 2
    assert "--prior expected: predicts one objective" in capsys.readouterr().err
