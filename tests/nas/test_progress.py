"""Progress lines, on a plain stream."""

import io

import pytest

from nas.progress import Progress, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3600, "1 h 00 min"),
        (11_400, "3 h 10 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_phase_leaves_one_line_with_its_counts() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.phase("search", 3) as phase:
        for done in range(3):
            phase.advance(1, done=done + 1, hypervolume=0.12345)
    assert " ".join(stream.getvalue().split()) == "search 3/3 0 s done 3, hypervolume 0.123"
    assert list(progress.seconds) == ["search"]


def test_skipped_units_are_no_evidence_of_speed() -> None:
    progress = Progress(io.StringIO())
    with progress.phase("distill", 100) as phase:
        phase.skip(90)
        assert phase.remaining_s is None
        phase.advance(5)
        assert phase.remaining_s == pytest.approx(phase.seconds, rel=0.5, abs=0.01)  # 5 done, 5 to go


def test_a_broken_phase_says_so_and_raises() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Progress(stream).phase("search", 3) as phase:
        phase.advance()
        raise KeyboardInterrupt
    assert "1/3" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("(interrupted)")


def test_silence() -> None:
    stream = io.StringIO()
    with Progress(stream, silent=True).phase("search") as phase:
        phase.advance()
    assert stream.getvalue() == ""


def test_a_live_phase_ends_as_one_line() -> None:
    stream = io.StringIO()
    with Progress(stream, live=True).phase("prior", 2) as phase:
        phase.advance(2)
    assert stream.getvalue().splitlines()[-1].split()[:2] == ["prior", "2/2"]
