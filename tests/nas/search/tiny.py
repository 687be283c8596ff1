"""A space, costs and evaluators that take hardly any time, for sweeps with real Ray.

Run as a script it is the driver of one sweep, to be killed: tiny.py RUN_DIR NUM_CANDIDATES SECONDS_A_CANDIDATE [POLICY]
POLICY, of early stopping, makes evaluations come in rungs.
"""

import sys
import time
from pathlib import Path

import numpy as np

from nas.search import KnownCosts, SweepSettings, run_sweep
from search_spaces.space import SearchSpace
from search_spaces.space_file import load_space

SPACE = load_space("nanosd")
SMALL = SearchSpace(name="small", options={"E1": ("RARA", "RA", "R"), "deep": ("none",), "D1": ("RARA", "R")})


def costs():
    """Latency and parameters that fall with the indices, at different rates."""
    return KnownCosts(
        latency_ms=lambda m: 30.0 - m @ np.arange(1, m.shape[1] + 1)[::-1] / 4,
        num_params=lambda m: 1000 - m @ np.arange(1, m.shape[1] + 1),
        num_macs=lambda m: 5000 - m.sum(axis=1),
    )


def prior(matrix):
    """Predicted error: grows with every index."""
    return 0.01 + 0.02 * matrix.sum(axis=1)


def error_of(options):
    """The final error of an evaluation in rungs: over two decades from the largest candidate to the smallest."""
    return 10 ** (-sum(len(name) for name in options.values()) / 12)


def curve_of(options, steps):
    """The error on the way to the final one, at 0, 10 and 20 of 30 steps: a power law of the final one."""
    return (2 * error_of(options)) ** (1 - 0.02 * (steps - 30))


def evaluator_with_rungs(seconds=0.0, log=None, special=None):
    """An evaluate_factory whose evaluations have three rungs; a line `<candidate> <steps>` each in `log`."""

    def make():
        import time

        from nas.search import PartialResult

        def evaluate(candidate):
            final = 10 ** (-sum(len(name) for name in candidate.options.values()) / 12)
            what = (special or {}).get(candidate.id, "")
            for steps in (0, 10, 20, 30):
                time.sleep(seconds / 4)
                if log is not None:
                    with open(log, "a") as file:
                        file.write(f"{candidate.id} {steps}\n")
                if what == f"raise {steps}":
                    raise RuntimeError("out of luck")
                error = (2 * final) ** (1 - 0.02 * (steps - 30)) if steps < 30 else final
                if what == f"nan {steps}":
                    error = float("nan")
                if what == f"end {steps}":
                    return
                yield PartialResult(steps, {"latent_error": error}, 0.01) if steps < 30 else {"latent_error": error}

        return evaluate

    return make


def evaluator(seconds=0.0, log=None, special=None):
    """An evaluate_factory; `special` maps candidate ids to what happens instead, `log` gets one line an evaluation.

    It is a closure that imports what it needs, so that Ray can send it without this module being installed.
    """

    def make():
        import os
        import re
        import signal
        import time

        import numpy as np

        def evaluate(candidate):
            if log is not None:
                with open(log, "a") as file:
                    file.write(f"{candidate.id} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
            time.sleep(seconds)
            error = 0.6 - sum(len(name) for name in candidate.options.values()) / 100
            what = (special or {}).get(candidate.id, "")
            if what == "raise":
                raise RuntimeError("out of\nluck")
            if what == "missing":
                return {"noise_error": 0.1}
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what.startswith("hang"):
                flag = what.removeprefix("hang once ")
                if what == "hang" or not os.path.exists(flag):
                    if what != "hang":
                        open(flag, "w").close()
                    re.match("(a+)+$", "a" * 60 + "b")  # for ever, and no other thread of this process runs
            if what == "memory":
                taken = []
                while True:
                    taken.append(bytearray(b"x" * 2**24))
                    time.sleep(0.01)
            if what.startswith("kill once"):
                flag = what.removeprefix("kill once ")
                if not os.path.exists(flag):
                    open(flag, "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
            return {"latent_error": {"nan": np.nan, "inf": np.inf}.get(what, error), "noise_error": error / 2}

        return evaluate

    return make


def main(run_dir, num_candidates, seconds, policy="none"):
    """One sweep of two workers, everything it measures written next to the run."""
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    settings = SweepSettings(
        num_candidates=int(num_candidates), workers=2, sampler="random", num_warm_start=6, early_stopping=policy
    )
    start = time.monotonic()
    first_result = []

    def on_progress(done, **_):
        first_result.append((time.monotonic() - start, done))

    make = evaluator if policy == "none" else evaluator_with_rungs
    factory = make(float(seconds), str(folder / "evaluations.txt"))
    result = run_sweep(SPACE, factory, costs(), settings, folder, prior, on_progress)
    (folder / "result.txt").write_text(f"{result}\n{first_result}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
