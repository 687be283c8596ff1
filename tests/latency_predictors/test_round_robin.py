from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from latency_predictors.measurement import Recording, current_conditions
from latency_predictors.runners.base import MeasureSettings
from latency_predictors.runners.round_robin import Session, round_robin


def spin(milliseconds: float) -> Callable[[], None]:
    def run() -> None:
        end = time.thread_time_ns() + milliseconds * 1e6
        while time.thread_time_ns() < end:
            pass

    return run


def test_times_what_the_thread_spends() -> None:
    passes = round_robin(
        {"1": spin(1), "3": spin(3)}, MeasureSettings(), single_thread=True, load_primer=lambda: spin(0)
    )
    samples = next(passes)
    assert 1.0 <= np.median(samples["1"].cpu_ms) < 1.5
    assert 3.0 <= np.median(samples["3"].cpu_ms) < 4.0


def test_a_run_that_waited_is_no_sample() -> None:
    runs = {"sleeps": lambda: time.sleep(0.003)}
    single = next(round_robin(runs, MeasureSettings(), single_thread=True, load_primer=lambda: spin(0)))
    assert single["sleeps"].wall_ms == []
    assert len(single["sleeps"].cpu_ms) == 5
    many = next(round_robin(runs, MeasureSettings(), single_thread=False, load_primer=lambda: spin(0)))
    assert min(many["sleeps"].wall_ms) >= 3.0


def test_every_round_runs_every_subject_in_changing_order() -> None:
    order: list[str] = []
    names = [str(i) for i in range(6)]
    runs = {name: (lambda name=name: order.append(name)) for name in names}
    settings = MeasureSettings(warm_up=1, rounds_per_pass=4)
    next(round_robin(runs, settings, single_thread=True, load_primer=lambda: spin(0)))
    rounds = [order[i : i + 6] for i in range(6, 30, 6)]  # the first six are the warm-up
    assert all(sorted(r) == names for r in rounds)
    assert len({tuple(r) for r in rounds}) == 4


def test_the_primer_runs_before_short_runs_only() -> None:
    order: list[str] = []
    runs = {"long": lambda: (order.append("long"), time.sleep(0.11)), "short": lambda: order.append("short")}
    settings = MeasureSettings(warm_up=1, rounds_per_pass=3)
    next(round_robin(runs, settings, single_thread=True, load_primer=lambda: lambda: order.append("primer")))
    timed = order[3:]
    assert timed.count("primer") == 3
    assert all(timed[i + 1] == "short" for i, what in enumerate(timed) if what == "primer")


def test_long_runs_need_no_primer_in_memory() -> None:
    def never() -> Callable[[], None]:
        raise AssertionError("loaded")

    settings = MeasureSettings(warm_up=1, rounds_per_pass=1)
    next(round_robin({"long": lambda: time.sleep(0.11)}, settings, single_thread=True, load_primer=never))


def recorded(samples: list[float]) -> dict[str, Recording]:
    return {
        "a": Recording(
            subject="a",
            pass_id=0,
            device="d",
            runtime="r",
            precision="float32",
            threads=1,
            wall_ms=tuple(samples),
            cpu_ms=tuple(samples),
            conditions=current_conditions("1", False),
        )
    }


def test_a_session_ends_when_the_interval_is_tight() -> None:
    session = Session(1, MeasureSettings(min_repeats=10, max_seconds=1e6))
    session.add(recorded([1.0] * 6))
    assert not session.is_over
    session.add(recorded([1.0] * 6))
    assert session.is_over


def test_a_session_ends_when_its_time_is_up() -> None:
    session = Session(2, MeasureSettings(min_repeats=10, max_seconds=0.02))
    session.add(recorded([1.0, 2.0] * 20))
    assert not session.is_over
    spin(45)()
    assert session.is_over


def test_a_session_counts_what_runs_took_on_another_device() -> None:
    """The process that waits for them spends no processor time."""
    settings = MeasureSettings(max_seconds=1e-6, min_repeats=1000)
    session = Session(1, settings, cpu_clock=lambda: 0.0)
    fields = {"subject": "a", "device": "phone", "runtime": "r", "precision": "float32", "threads": 1}
    conditions = current_conditions("1", False)
    earlier = Recording(**fields, pass_id=1, wall_ms=(9.0,), cpu_ms=(9.0,), conditions=conditions)
    session.add({"a": earlier})
    assert not session.is_over  # that was another session's
    session.add({"a": earlier.model_copy(update={"pass_id": time.time_ns()})})
    assert session.is_over


def test_long_runs_are_warmed_up_once_and_passes_stay_short(monkeypatch: pytest.MonkeyPatch) -> None:
    from latency_predictors.runners import round_robin as module

    monkeypatch.setattr(module, "_WARM_RUN_MS", 4.0)
    monkeypatch.setattr(module, "_PASS_MS", 12.0)
    order: list[str] = []
    runs = {"long": lambda: (order.append("long"), time.sleep(0.005)), "short": lambda: order.append("short")}
    settings = MeasureSettings(warm_up=3, rounds_per_pass=5)
    samples = next(round_robin(runs, settings, single_thread=False, load_primer=lambda: spin(0)))
    assert order[:4] == ["long", "short", "short", "short"]
    # A round lasts 5 ms or a little more, so 12 ms hold one or two of the five rounds asked for.
    assert 1 <= len(samples["long"].wall_ms) <= 2
