"""Limits of an evaluation, and the process that enforces them; no Ray needed."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas.search import watchdog
from nas.search.control import FIRST_SECONDS, Control, EvaluationTimes, Limits

ROOT = Path(__file__).parents[3]


def limits(seconds=60.0, worker_bytes=None, in_flight=1, deaths=0):
    return Limits(seconds, "a test", worker_bytes, 1, in_flight, deaths)


def test_the_limit_is_that_given_or_follows_the_median():
    given, adaptive = EvaluationTimes(3.0), EvaluationTimes(None)
    assert given.limit == (3.0, "search.trial_timeout_s") and adaptive.limit[0] == FIRST_SECONDS
    for seconds in (10.0, 1000.0):
        adaptive.add(seconds)
    assert adaptive.median_s is None and adaptive.limit[0] == FIRST_SECONDS
    adaptive.add(20.0)
    assert adaptive.median_s == 20.0 and adaptive.limit[0] == 400.0
    short = EvaluationTimes(None)
    for _ in range(3):
        short.add(0.5)
    assert short.limit[0] == 60.0


def test_what_breaches_a_limit():
    none = {"seconds": None, "seconds_of": "x", "worker_bytes": None, "per_node": 4}
    assert watchdog.breach({}, 1e9, 1, 10) is None
    # 90 % of 40 bytes are 9 for each of four.
    assert watchdog.breach(none, 1e9, 9, 40) is None
    assert "a worker's share" in watchdog.breach(none, 1e9, 10, 40)
    assert (
        watchdog.breach(none | {"worker_bytes": 5}, 0, 6, 40)
        == "more than 5e-09 GB of memory (search.worker_memory_gb)"
    )
    assert watchdog.breach(none | {"seconds": 2.0}, 2.5, 1, 40) == "no result within 2 s (x)"
    assert watchdog.breach(none | {"seconds": 2.0}, 1.5, 1, 40) is None


CHILD = """
import re, sys, time
from pathlib import Path
from nas.search.control import Watch
watch = Watch(Path(sys.argv[1]))
with watch.over("first"):
    time.sleep(0.3)
print("first", flush=True)
time.sleep(0.5)
with watch.over("second"):
    if sys.argv[2] == "hang":
        re.match("(a+)+$", "a" * 60 + "b")  # never lets go of Python's lock
    if sys.argv[2] == "memory":
        taken = [bytearray(b"x" * 2**24) for _ in range(40)]
        time.sleep(30)
print("second", flush=True)
"""


@pytest.mark.parametrize("what", ["nothing", "hang", "memory"])
def test_a_watchdog_ends_what_breaches_a_limit_and_nothing_else(tmp_path, what):
    # Between evaluations nobody is watched; the clock starts anew with each.
    Control(tmp_path).write(limits(seconds=1.0 if what == "hang" else 60.0, worker_bytes=400_000_000))
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), what], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    reason = Control(tmp_path).reason("second")
    assert Control(tmp_path).reason("first") is None
    if what == "nothing":
        assert (child.returncode, child.stdout, reason) == (0, "first\nsecond\n", None)
    else:
        assert (child.returncode, child.stdout) == (-signal.SIGKILL, "first\n")
        expected = {"hang": "no result within 1 s (a test)", "memory": "more than 0.4 GB of memory"}
        assert reason.startswith(expected[what])


def test_nobody_waits_for_workers_that_are_not_needed_any_more(tmp_path):
    driver, worker = Control(tmp_path), Control(tmp_path)
    worker.show_alive()
    assert worker.num_alive() == 1
    driver.write(limits(in_flight=1))
    start = time.monotonic()
    worker.wait_for_others()
    driver.write(limits(in_flight=2))
    helper = "import sys, time; time.sleep(0.4); open(sys.argv[1] + '.new', 'w').write(sys.argv[2]); "
    helper += "import os; os.replace(sys.argv[1] + '.new', sys.argv[1])"
    fewer = json.dumps(json.loads((tmp_path / watchdog.LIMITS_FILE).read_text()) | {"in_flight": 1})
    process = subprocess.Popen([sys.executable, "-c", helper, str(tmp_path / watchdog.LIMITS_FILE), fewer])
    worker.wait_for_others()
    waited = time.monotonic() - start
    process.wait(30)
    assert worker.read().in_flight == 1 and waited < 25  # not the 30 s after which it would give up
