"""Numbers as a person reads them: three significant digits and a unit."""

from __future__ import annotations

from collections.abc import Mapping

NONE = "–"


def count(value: float | None) -> str:
    """2,210,000 -> `2.21 M`."""
    if value is None:
        return NONE
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        # 0.9995: a value that rounds up to 1,000 of a unit is written as 1 of the next.
        if abs(value) >= 0.9995 * size:
            return f"{_three(value / size)} {unit}"
    return f"{value:.0f}"


def milliseconds(value: float | None) -> str:
    """Latency with its unit."""
    return NONE if value is None else f"{_three(value)} ms"


def error(value: float | None) -> str:
    """A dimensionless error with three significant digits."""
    return NONE if value is None else _three(value)


def percent(value: float | None) -> str:
    """A value that is already in percent."""
    return NONE if value is None else f"{value:.1f} %"


def times(value: float | None) -> str:
    """A ratio such as a speed-up."""
    return NONE if value is None else f"{value:.2f}×"


def duration(seconds: float | None) -> str:
    """`74 s` or `5 min 12 s`."""
    if seconds is None:
        return NONE
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def counted(number: int, noun: str) -> str:
    """`1 block`, `37 blocks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def words_text(words: Mapping[str, str]) -> str:
    """`E1 RARA  E2 RA ...`; a dropped deep path is said in words."""
    return " · ".join(f"{stage} {'dropped' if word == 'none' else word}" for stage, word in words.items())


def _three(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 9.995:
        return f"{value:.1f}"
    if size >= 0.9995:
        return f"{value:.2f}"
    if size >= 0.0001:
        return f"{value:.3g}"
    return f"{value:.1e}"
