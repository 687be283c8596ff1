"""`nanosd` and scripts in processes of their own that need not import torch, Ray and the rest: that takes seconds.

Each is forked from one server, which has imported the libraries and done nothing else, so that it can be killed at
any moment as a user's own can. tests/experiments/test_cli.py starts the command as a shell does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOWHERE = Path(os.devnull)
_FORKED = Path(__file__).with_name("forked_script.py")
# What a run imports sooner or later and what starts no thread when it is imported (onnxruntime and pandas do).
_LIBRARIES = [
    "torch.onnx",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "transformers.models.clip.modeling_clip",
    "onnx",
    "optuna",
    "plotly.graph_objects",
    "ray.tune.search",
    "moocore",
    "scipy.optimize",
    "sklearn",
    "experiments.cli",
    "nas.run.loop",
]


def start_script(script: Path, *arguments: str | Path, stdout: Path = NOWHERE, stderr: Path = NOWHERE) -> BaseProcess:
    """Start a Python script in the background, in a session of its own; it appends to the two files."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LIBRARIES)
    given = (str(script), [str(each) for each in arguments], str(stdout), str(stderr))
    process = context.Process(target=runpy.run_path, args=(str(_FORKED), {"GIVEN": given}))
    process.start()
    return process


def start(*arguments: str | Path, stderr: Path = NOWHERE) -> BaseProcess:
    """Start `nanosd` in the background; what it says goes to the end of the file `stderr`."""
    return start_script(ROOT / "experiments" / "cli.py", *arguments, stderr=stderr)


def exit_code(process: BaseProcess, seconds: float = 400) -> int | None:
    """How the process ended; None if it had to be killed after so many seconds."""
    process.join(seconds)
    code = process.exitcode
    process.kill()  # else pytest would wait for it at the end
    process.join()
    return code
