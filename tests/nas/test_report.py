"""The report: one offline page, every part of a run on it, every missing part named on it."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nas.report import render, write_report
from nas.report.sections import SECTIONS
from nas.run_data import PARTS, read_run
from search_spaces.errors import UserError
from tests import synthetic_run


class Page(HTMLParser):
    """Collects what a page would fetch, its sections in order, and whether its tags balance."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.sections: list[str] = []
        self.stack: list[str] = []
        self.figures: list[str] = []
        self.images = 0
        self.feed(html)
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.fetched += [
            value for name in ("src", "href") if (value := values.get(name)) and not value.startswith(("data:", "#"))
        ]
        if tag == "section":
            self.sections.append(values["id"] or "")
        if (values.get("id") or "").startswith("figure-"):
            self.figures.append(values["id"] or "")
        self.images += tag == "img"
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_run.make_run(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def test_the_page_is_whole_offline_and_in_order(folder: Path) -> None:
    from plotly.offline import get_plotlyjs

    path = write_report(folder)
    html = path.read_text(encoding="utf-8")
    assert path == folder / "report.html"
    assert html.count(get_plotlyjs()) == 1
    page = Page(html)
    assert page.fetched == []
    assert page.sections == [anchor for anchor, _, _ in SECTIONS]
    assert len(page.figures) == len(set(page.figures)) == 15
    assert page.images == 2 * 5 * 4 + 2 * 4
    own = html.replace(get_plotlyjs(), "")
    assert "@import" not in own and "url(" not in own and "http" not in own
    assert 'class="missing"' not in own
    assert [p for p in folder.iterdir() if p.name.endswith(".tmp")] == []


def test_the_page_says_what_the_run_measured(folder: Path) -> None:
    html = render(read_run(folder))
    assert "median error 6.5 %, worst 12.0 %" in html
    assert "32,768" in html and "4 min 30 s" in html
    for row in read_run(folder).closing:
        assert f"{row.measured_ms:.2f} ms" in html
    for reason in synthetic_run.FAILED.values():
        assert reason in html


@pytest.mark.parametrize(("p90", "words"), [(11.0, "fit for search"), (20.0, "usable with care")])
def test_the_page_gives_the_profiles_verdict(folder: Path, p90: float, words: str) -> None:
    path = folder / "device_profile.json"
    assert "Verdict:" not in render(read_run(folder)), "a profile of the first format does not judge itself"
    judgement = {"how": "unseen", "num": 12, "median_error_pct": 5.0, "p90_error_pct": p90, "within10": 0.9}
    judgement |= {"spearman": 0.96, "kendall": 0.9, "coverage90": 0.9}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"judgement": judgement}))
    html = render(read_run(folder))
    assert f"Verdict: {words}." in html and "Spearman &gt;= 0.95" in html


def test_baselines_are_judged_on_the_page_and_a_damaged_file_is_named(folder: Path) -> None:
    record = read_run(folder).baselines
    html = render(read_run(folder))
    for entry in record.baselines:
        sentence = f"dominated by {entry.dominated_by[0]}" if entry.dominated_by else "not dominated by any"
        assert f"{entry.name} is {sentence}" in html
    path = folder / "baselines.json"
    path.write_text(path.read_text().replace('"measured"', '"guessed"', 1))
    assert "latency is not valid" in render(read_run(folder))


def test_one_run_gives_one_page(folder: Path) -> None:
    assert render(read_run(folder)) == render(read_run(folder))


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_missing_part_is_named_in_its_section(folder: Path, part: str) -> None:
    (folder / PARTS[part][0]).rename(folder / "elsewhere")
    (folder / "candidates.csv").unlink()
    run = read_run(folder)
    html = render(run)
    assert Page(html).sections == [anchor for anchor, _, _ in SECTIONS]
    # The picks only mark points: their absence leaves no hole.
    assert run.missing[part] in html or part == "picks"


def test_an_empty_run_still_gives_a_page(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert Page(html).figures == []
    assert html.count('class="missing"') >= len(SECTIONS)


def test_text_of_a_run_cannot_break_the_page(folder: Path) -> None:
    data = json.loads((folder / "closing.json").read_text())
    data["rows"][1]["pick"] = "<script>alert(1)</script>"
    (folder / "closing.json").write_text(json.dumps(data))
    (folder / "images" / "captions.json").write_text(json.dumps({"captions": ['a"><b onload="x'] * 4}))
    html = render(read_run(folder))
    assert "<script>alert" not in html and "<b onload" not in html
    Page(html)


def test_large_images_are_embedded_small(folder: Path) -> None:
    from PIL import Image

    for path in folder.glob("*/*/*.png"):
        Image.new("RGB", (1024, 512), "red").save(path)
    assert set(re.findall(r'<img [^>]*width="(\d+)" height="(\d+)"', render(read_run(folder)))) == {("256", "128")}


def test_a_place_that_cannot_be_written_is_a_user_error(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_report(folder, folder / "file" / "report.html")
