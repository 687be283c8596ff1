"""Faults of a real sweep: processes killed at random times, Ray itself killed, a full disk, two drivers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest

from nas.search import CandidateStore
from nas.search.ray_session import SESSION_FILE, TOKEN

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("tiny.py")
ROOT = SCRIPT.parents[3]
RAY = ("raylet", "gcs_server")


def start(run_dir, num, seconds, ignores_sigint=False):
    """A driver, as a shell starts it, or in the background of a script, where SIGINT is ignored."""
    action = signal.SIG_IGN if ignores_sigint else signal.SIG_DFL
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(run_dir), str(num), str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=lambda: signal.signal(signal.SIGINT, action), **out)


def records(run_dir):
    return CandidateStore(run_dir / "store").records()


def wait_for_records(run_dir, process, num, seconds=240):
    end = time.monotonic() + seconds
    while len(records(run_dir)) < num and process.poll() is None:
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def of_sweep(run_dir):
    """The living processes of the run's own Ray."""
    try:
        token = json.loads((run_dir / "store" / SESSION_FILE).read_text())["token"]
    except (OSError, ValueError):
        return []
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def workers(run_dir):
    """The living processes that evaluate: each has a file of its own name."""
    note = json.loads((run_dir / "store" / SESSION_FILE).read_text())
    pids = {int(path.name.rpartition("-")[2]) for path in Path(note["temp_dir"]).glob("control/alive-*")}
    return [process for process in of_sweep(run_dir) if process.pid in pids]


def evaluating(run_dir):
    """Process ids of workers in the middle of an evaluation: those that have begun more than they have stored."""
    starts = Counter(int(line.split()[1]) for line in (run_dir / "evaluations.txt").read_text().splitlines())
    ends = Counter(int(record.worker.rpartition(":")[2]) for record in records(run_dir))
    return [pid for pid, number in starts.items() if number > ends[pid]]


def kill(run_dir, driver, target):
    """SIGKILL the driver, one of its workers, or a process of Ray; whether there was one."""
    if target == "driver":
        driver.kill()
        return True
    victims = workers(run_dir) if target == "worker" else [p for p in of_sweep(run_dir) if p.name() == target]
    for victim in victims[:1]:
        victim.kill()
    return bool(victims)


def check_nothing_lost_or_repeated(run_dir, num, finished_at_kill):
    """Every finished evaluation is kept and was never started again; returns how many were started more than once."""
    kept = records(run_dir)
    assert Counter(r.outcome for r in kept) == {"done": num}
    assert len({r.candidate for r in kept}) == num
    trials = {r.trial for r in kept}
    starts = [line.split()[0] for line in (run_dir / "evaluations.txt").read_text().splitlines()]
    for finished, num_starts in finished_at_kill:
        assert {trial for trial, _ in finished} <= trials  # none lost
        assert not {candidate for _, candidate in finished} & set(starts[num_starts:])  # none repeated
    backend = optuna.storages.journal.JournalFileBackend(str(run_dir / "study.log"))
    study = optuna.load_study(study_name=run_dir.name, storage=optuna.storages.JournalStorage(backend))
    states = Counter(t.state.name for t in study.trials)
    assert states["COMPLETE"] == num and states["RUNNING"] == states["WAITING"] == 0
    assert not of_sweep(run_dir)
    return sum(n - 1 for n in Counter(starts).values())


def interrupted_run(run_dir, num, seconds, kills):
    """Run a sweep, killing (target, after seconds of work) one after the other; returns how each driver ended."""
    ended, finished_at_kill, driver = [], [], None
    for number, (target, after) in enumerate(kills):
        if driver is None:
            driver = start(run_dir, num, seconds, ignores_sigint=number % 2 == 0)
        wait_for_records(run_dir, driver, len(records(run_dir)) + 1)
        time.sleep(after)
        hit = driver.poll() is None and kill(run_dir, driver, target)
        finished = [(r.trial, r.candidate) for r in records(run_dir)]
        starts = len((run_dir / "evaluations.txt").read_text().splitlines()) + 2  # two may just have been started
        if hit:
            finished_at_kill.append((finished, starts))
        if target == "worker" and hit and number + 1 < len(kills):
            continue  # the driver goes on, and is there for the next kill
        output, _ = driver.communicate(timeout=300)
        ended.append((target, hit, driver.returncode, output))
        if driver.returncode == 0 and len(records(run_dir)) == num:
            break
        driver = None
    last = start(run_dir, num, seconds)
    output, _ = last.communicate(timeout=600)
    assert (last.returncode, output) == (0, "")
    return ended, finished_at_kill


@pytest.mark.parametrize("target", RAY)
def test_ray_itself_is_killed(tmp_path, target):
    run_dir = tmp_path / "run"
    ended, finished = interrupted_run(run_dir, 14, 0.3, [(target, 0.5)])
    (_, hit, code, output) = ended[0]
    assert hit and code == 1
    assert f"Ray stopped in the middle of the sweep (its {target} died)" in output.splitlines()[-1], output
    check_nothing_lost_or_repeated(run_dir, 14, finished)


def test_random_kills(tmp_path):
    """20 kills of drivers, workers and processes of Ray at random times: nothing finished is lost or done again."""
    choice = random.Random(int(os.environ.get("NANOSD_SEED", "0")))
    total = 0
    for number in range(4):
        run_dir = tmp_path / f"run-{number}"
        targets = ["driver", "worker", "driver", *RAY]
        choice.shuffle(targets)
        kills = [(target, choice.uniform(0, 1.5)) for target in targets]
        ended, finished = interrupted_run(run_dir, 90, 0.3, kills)
        total += len(finished)
        again = check_nothing_lost_or_repeated(run_dir, 90, finished)
        assert again <= 2 * len(finished)  # only what was under way
        assert all(code != 0 for target, hit, code, _ in ended if hit and target != "worker")
    assert total >= 20, f"only {total} processes were hit"


def test_a_full_disk_stops_the_sweep_and_costs_nothing(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(run_dir)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        first = start(run_dir, 60, 0.05)
        output, _ = first.communicate(timeout=300)
        assert first.returncode == 1
        assert "No space left on device" in output.splitlines()[-1]
        kept = {r.trial for r in records(run_dir)}
        assert 0 < len(kept) < 60
        subprocess.run(["mount", "-o", "remount,size=4m", str(run_dir)], check=True)
        last = start(run_dir, 60, 0.05)
        assert (last.communicate(timeout=300)[0], last.returncode) == ("", 0)
        assert kept <= {r.trial for r in records(run_dir)}
        assert Counter(r.outcome for r in records(run_dir)) == {"done": 60}
    finally:
        subprocess.run(["umount", "-l", str(run_dir)], check=True)


def test_a_second_driver_leaves_the_first_alone(tmp_path):
    run_dir = tmp_path / "run"
    first = start(run_dir, 12, 0.4)
    wait_for_records(run_dir, first, 2)
    second = start(run_dir, 12, 0.4)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 1 and "another process is driving its sweep" in output.splitlines()[-1]
    assert (first.communicate(timeout=300)[0], first.returncode) == ("", 0)
    starts = Counter(line.split()[0] for line in (run_dir / "evaluations.txt").read_text().splitlines())
    assert set(starts.values()) == {1} and len(starts) == 12


def test_a_stopped_worker_is_ended_by_its_watchdog(tmp_path):
    """SIGSTOP of a worker is a hang of the whole process."""
    run_dir = tmp_path / "run"
    driver = start(run_dir, 8, 3)
    wait_for_records(run_dir, driver, 2)  # so that both workers live
    end = time.monotonic() + 60
    while not (victims := evaluating(run_dir)):
        assert time.monotonic() < end, "nobody evaluates"
        time.sleep(0.05)
    os.kill(victims[0], signal.SIGSTOP)
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output  # Ray says a word of its own about the worker
    assert Counter(r.outcome for r in records(run_dir)) == {"done": 8}
