"""What rows of measurement files are rows of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_predictors.imported import one_device, sort_rows, strays, subject_of
from latency_predictors.importers import ImportedMeasurement, Provenance
from search_spaces.errors import UserError
from search_spaces.space import SearchSpace

SPACE = SearchSpace(
    name="tiny",
    options={"E1": ("RARA", "R"), "deep": ("RR.RAR.RRR", "none"), "D1": ("RARARA", "R@3")},
    candidates={"small": "R-none-R@3"},
)


def row(
    subject: str, number: int = 2, latency_ms: float = 1.0, format: str = "csv", **facts: object
) -> ImportedMeasurement:
    where = Provenance(file=f"{facts.pop('file', 'a.csv')}", sha256="0" * 64, format=format, row=number)
    return ImportedMeasurement(subject=subject, latency_ms=latency_ms, provenance=where, **facts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base", ("base", False)),
        ("E1/RARA", ("E1/RARA", False)),
        (" D1_R@3.onnx ", ("D1/R@3", False)),
        ("E1_R_2026-01-31_12-00-00", ("E1/R", False)),
        ("small", ("R-none-R@3", True)),
        ("RARA-none-RARARA", ("RARA-none-RARARA", True)),
        ("RARA-RR.RAR.RRR-R@3.onnx", ("RARA-RR.RAR.RRR-R@3", True)),
    ],
)
def test_every_form_of_a_subject(text: str, expected: tuple[str, bool]) -> None:
    assert subject_of(text, SPACE) == expected


@given(number=st.integers(0, SPACE.num_candidates - 1), stage=st.sampled_from(SPACE.stages), data=st.data())
def test_what_the_space_names_is_found_again(number: int, stage: str, data: st.DataObject) -> None:
    candidate = SPACE.decode(SPACE.enumerate()[number])
    assert subject_of(candidate.id, SPACE) == (candidate.id, True)
    option = data.draw(st.sampled_from([o for o in SPACE.options[stage] if o != "none"]))
    assert (
        subject_of(f"{stage}/{option}", SPACE)
        == subject_of(f"{stage}_{option}.onnx", SPACE)
        == (f"{stage}/{option}", False)
    )


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8, unique=True))
def test_any_text_is_a_subject_or_one_line_with_its_row(texts: list[str]) -> None:
    rows = [row(text, number) for number, text in enumerate(texts, start=2)]
    try:
        found = sort_rows(rows, SPACE)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and "row " in str(error)
        assert "legal subjects are base" in str(error) or "measured in" in str(error)
    else:
        assert len(found.parts) + len(found.networks) == len(rows)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("E1/RR", "option 'RR' of stage E1 is not in"),
        ("deep/none", "runs nothing"),
        ("unet", "is nothing of"),
        ("R-R", "has 2 options"),
    ],
)
def test_unknown_subjects_are_listed_with_the_legal_forms(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=r"a\.csv, row 7: .*" + reason) as error:
        sort_rows([row("base"), row(text, 7)], SPACE)
    assert "E1/RARA" in str(error.value) and "small" in str(error.value) and "--skip-unknown" in str(error.value)
    found = sort_rows([row("base"), row(text, 7)], SPACE, skip_unknown=True)
    assert list(found.parts) == ["base"] and len(found.unknown) == 1
    with pytest.raises(UserError, match="no row has a subject"):
        sort_rows([row(text, 7)], SPACE, skip_unknown=True)


def test_a_tools_output_may_be_named_after_its_graph() -> None:
    found = sort_rows([row("models", format="onnxruntime-perf-test", file="E1_R.csv")], SPACE)
    assert list(found.parts) == ["E1/R"]
    with pytest.raises(UserError, match="'models' is nothing"):
        sort_rows([row("models", format="csv", file="E1_R.csv")], SPACE)


def test_one_subject_twice_is_refused_under_any_two_names() -> None:
    with pytest.raises(
        UserError, match=r"a\.csv, row 3: R-none-R@3 is measured in a\.csv, row 2 already \(2 ms against 1\)"
    ):
        sort_rows([row("small", 2, 1.0), row("R-none-R@3", 3, 2.0)], SPACE)


def test_rows_of_several_devices_must_be_chosen_from() -> None:
    with pytest.raises(
        UserError, match=r"precision is w8a8 \(2 rows\), not given \(1 rows\); choose one with --precision"
    ):
        one_device(
            [row("a", device="p", precision="w8a8"), row("b", device="p", precision="w8a8"), row("c", device="p")]
        )
    assert one_device([row("a", device="p", threads=2)])["threads"] == 2
    assert set(one_device([]).values()) == {None}


def test_rows_that_ran_elsewhere_are_said() -> None:
    rows = [row("a", 2, compute_unit="NPU"), row("b", 3, compute_unit="NPU"), row("c", 4, compute_unit="CPU")]
    assert strays(rows) == ["a.csv, row 4: c ran on CPU, 2 others on NPU (kept)"]
    assert strays(rows[:2]) == []
