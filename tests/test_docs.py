"""The documents say what is so, and the check that holds them to it notices what is not."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("docs_check", ROOT / "docs" / "check.py")
assert spec is not None and spec.loader is not None
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def test_the_documents_are_true() -> None:
    assert check.problems() == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("nanosd search --config experiments/recipes/quickstart.yaml --set search.workers=1", ""),
        ("$ nanosd teacher random --like sd15 DIR", ""),
        ("python -m pip install nox && python -m nox -s quickstart", ""),
        ("nanosd serch", "no verb serch"),
        ("nanosd search --confg x.yaml", "no option --confg"),
        ("nanosd search --set search.worker=1", "no such key"),
        ("nanosd search --config experiments/recipes/none.yaml", "no recipe"),
        ("python -m nox -s test", "no session test"),
    ],
)
def test_commands_are_checked(line: str, wrong: str) -> None:
    found = list(check.bad_command(line))
    assert (found == []) if not wrong else wrong in " ".join(found)


def test_links_are_checked(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading, here\n")
    prose = ["[a](page.md) [b](#a-heading-here) [c](none.md) [d](#nothing) [e](https://example.org) `[f](no.md)`"]
    assert [line.split(":")[0] for line in check.bad_links(page, prose)] == ["link to none.md", "link to #nothing"]
