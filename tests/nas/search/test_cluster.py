"""A sweep on a Ray cluster that was there before it."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nas.search import CandidateStore
from search_spaces.errors import UserError

# This cluster's own secret: head and driver must have the same one.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

ROOT = Path(__file__).parents[3]

DRIVER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
from nas.search import SweepSettings, run_sweep
settings = SweepSettings(num_candidates=6, workers=2, sampler="random")
factory = tiny.evaluator(0.05)
print(run_sweep(tiny.SPACE, factory, tiny.costs(), settings, sys.argv[2], tiny.prior, address=sys.argv[3]).done)
"""


def driver(run_dir, address):
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        DRIVER,
        str(Path(__file__).with_name("tiny.py")),
        str(run_dir),
        address,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | TOKEN
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_running_cluster_is_used_and_left_running(tmp_path):
    import tempfile

    # A private port and a short temporary folder: other clusters of this machine stay out of it.
    with tempfile.TemporaryDirectory(prefix="nsd-", dir="/tmp") as temp_dir:
        ray = [str(Path(sys.executable).with_name("ray"))]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": temp_dir} | TOKEN
        options = ["--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={temp_dir}"]
        options += ["--object-store-memory=104857600", "--disable-usage-stats", "--block"]
        head = subprocess.Popen([*ray, "start", *options], env=environment, stdout=subprocess.DEVNULL)
        try:
            end = time.monotonic() + 120
            run = driver(tmp_path / "run", "127.0.0.1:6399")
            while "no Ray cluster" in run.stderr and time.monotonic() < end:  # it is still starting
                run = driver(tmp_path / "run", "127.0.0.1:6399")
            assert (run.stdout.strip(), run.stderr, run.returncode) == ("6", "", 0)
            assert head.poll() is None
        finally:
            head.terminate()
            head.wait(60)
    assert CandidateStore(tmp_path / "run" / "store").counts()["done"] == 6
    assert sorted(p.name for p in (tmp_path / "run" / "store").iterdir()) == ["candidates.jsonl"]


@pytest.mark.slow
def test_no_cluster_at_the_address_is_one_line(tmp_path):
    run = driver(tmp_path / "run", "127.0.0.1:6998")
    assert run.returncode != 0
    assert f"{UserError.__name__}: no Ray cluster at address '127.0.0.1:6998'" in run.stderr.splitlines()[-1]


# A cluster that says it has a GPU: what workers do with it is their affair, how many share it is Ray's.
SHARED_GPU = """
import importlib.util, os, sys
from collections import Counter
import ray
from nas.search import CandidateStore, SweepSettings, run_sweep
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
def make():
    import os
    evaluate = tiny_evaluator()
    return lambda candidate: {**evaluate(candidate), "gpu": float(os.environ["CUDA_VISIBLE_DEVICES"])}
tiny_evaluator = tiny.evaluator(0.3)
for gpus, run_dir in ((0.5, sys.argv[2]), (0.6, sys.argv[2] + "-2")):
    settings = SweepSettings(num_candidates=8, workers=2, sampler="random", cpus_per_trial=0.5, gpus_per_trial=gpus)
    try:
        run_sweep(tiny.SPACE, make, tiny.costs(), settings, run_dir)
        records = CandidateStore(run_dir + "/store").records()
        print(len(records), len({r.worker for r in records}), {r.metrics["gpu"] for r in records})
    except Exception as error:
        print(error)
"""


@pytest.mark.slow
def test_two_workers_share_a_gpu_by_halves(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", SHARED_GPU, str(Path(__file__).with_name("tiny.py"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": "/tmp"}
    run = subprocess.run(
        [*command, str(tmp_path / "run")], env=environment, capture_output=True, text=True, timeout=300
    )
    shared, refused = run.stdout.splitlines()
    assert shared == "8 2 {0.0}", run.stderr
    assert "room for 1 workers of search.cpus_per_trial 0.5 and search.gpus_per_trial 0.6" in refused
