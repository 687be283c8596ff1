from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from latency_predictors import isolated


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds this folder's modules by their plain names."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def call(function: str, timeout_s: float = 60.0, limit: int | None = None, **arguments: object) -> isolated.Outcome:
    return isolated.call(f"isolated_targets:{function}", arguments, timeout_s=timeout_s, memory_limit_bytes=limit)


def test_gives_the_value_and_what_it_cost() -> None:
    begin = time.perf_counter()
    outcome = call("add", a=2, b=0.5)
    assert (outcome.status, outcome.value, outcome.reason) == ("ok", {"sum": 2.5}, None)
    assert 0 < outcome.seconds <= time.perf_counter() - begin
    # A bare Python takes more than a megabyte and far less than a gigabyte: the unit is bytes.
    assert 1 << 20 < outcome.peak_bytes < 1 << 30


def test_a_user_error_keeps_its_line() -> None:
    outcome = call("refuse", text="SoC 'X' is not known; legal are A, B")
    assert (outcome.status, outcome.value) == ("refused", None)
    assert outcome.reason == "SoC 'X' is not known; legal are A, B"


@pytest.mark.parametrize("function", ["fail", "no_json", "no_such_function"])
def test_any_other_exception_is_one_line(function: str) -> None:
    outcome = call(function, **({"text": "a\nb"} if function == "fail" else {}))
    assert outcome.status == "failed"
    assert outcome.reason is not None and "\n" not in outcome.reason
    expected = {"fail": "RuntimeError: a b", "no_json": "TypeError", "no_such_function": "AttributeError"}[function]
    assert outcome.reason.startswith(expected)


def test_a_crash_costs_only_itself() -> None:
    outcome = call("crash")
    assert outcome.status == "crashed"
    assert outcome.reason == "ended by SIGSEGV: the last words"


def test_an_exit_without_an_answer_is_a_crash() -> None:
    outcome = call("leave")
    assert (outcome.status, outcome.value) == ("crashed", None)
    assert outcome.reason == "ended with exit code 0 and no answer"


def test_one_process_takes_many_calls_until_it_breaks() -> None:
    with isolated.Caller() as caller:
        first, second = (caller.call("isolated_targets:who", {}, timeout_s=60.0).value for _ in range(2))
        assert first == second
        assert caller.call("isolated_targets:fail", {"text": "a"}, timeout_s=60.0).status == "failed"
        assert caller.call("isolated_targets:who", {}, timeout_s=60.0).value == first, "an exception breaks nothing"
        crashed = caller.call("isolated_targets:crash", {}, timeout_s=60.0)
        assert (crashed.status, crashed.reason) == ("crashed", "ended by SIGSEGV: the last words")
        third = caller.call("isolated_targets:who", {}, timeout_s=60.0).value
        assert third != first
        left = caller.call("isolated_targets:leave", {}, timeout_s=60.0)
        assert left.reason == "ended with exit code 0 and no answer", "not the last words of a call before"
        caller.stop()
        assert caller.call("isolated_targets:who", {}, timeout_s=60.0).value not in (first, third)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hang_ends_with_all_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with isolated.Caller() as caller:
        caller.call("isolated_targets:who", {}, timeout_s=60.0)  # the start of a process is not what is waited for
        begin = time.perf_counter()
        outcome = caller.call("isolated_targets:hang", {"pid_file": str(pid_file)}, timeout_s=1.0)
    assert outcome.status == "timed_out"
    assert outcome.reason == "stopped after 1 s"
    assert time.perf_counter() - begin < 30
    stat = Path(f"/proc/{pid_file.read_text()}/stat")
    for _ in range(100):  # what was killed may take a moment to go, and stays a zombie where nobody reaps it
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child's child is still alive")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_the_memory_limit_is_enforced() -> None:
    assert call("allocate", limit=512 << 20, num_bytes=64 << 20).value == 64 << 20
    outcome = call("allocate", limit=512 << 20, num_bytes=1 << 30)
    assert outcome.status == "failed"
    assert outcome.reason is not None and outcome.reason.startswith("out of memory (limit 536,870,912 bytes)")
