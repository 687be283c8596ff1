"""The project's chores, each in an environment that nox makes: `python -m nox -s quickstart`, `... -s tests`."""

import hashlib
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["tests", "lint", "typecheck"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

HERE = Path(__file__).resolve().parent
RECIPE = "experiments/recipes/quickstart.yaml"
RUN = "runs/quickstart"
# One OpenMP thread a process: the loop runs one worker a core, and more threads than cores are several times slower.
QUIET = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def pinned(package: str) -> str:
    """Return the package's line of constraints.txt, as `torch==2.13.0`."""
    lines = (HERE / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


def install(session: nox.Session, extras: str = "") -> None:
    """Install the project with pinned dependencies, once for each state of pyproject.toml and constraints.txt."""
    state = hashlib.sha256((HERE / "pyproject.toml").read_bytes() + (HERE / "constraints.txt").read_bytes()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed.sha256"
    if stamp.exists() and stamp.read_text() == state:
        return
    # torch by its exact version and by itself first: a looser request may fetch gigabytes of CUDA libraries.
    session.install("-c", "constraints.txt", pinned("torch"))
    session.install("-c", "constraints.txt", pinned("torch"), "-e", f".{extras}")
    stamp.write_text(state)


def borrowed(session: nox.Session, owner: str) -> str:
    """Return the Python of another session's environment, installed if need be: each is over a gigabyte."""
    session.run(sys.executable, "-m", "nox", "-s", owner, "--install-only", external=True, silent=True)
    return str(HERE / ".nox" / owner / "bin" / "python")


@nox.session
def quickstart(session: nox.Session) -> None:
    """Run the whole loop on the toy teacher; arguments after `--` go to `nanosd search`."""
    install(session)
    session.run("nanosd", "search", "--config", RECIPE, "--run", RUN, *session.posargs, env=QUIET)
    if (HERE / RUN / "report.html").exists():
        session.log(f"open {RUN}/report.html in a browser")


@nox.session
def tests(session: nox.Session) -> None:
    """Run pytest without the slow tests, two files at a time; arguments after `--` replace that (`-- -m ''`: all)."""
    install(session, "[dev]")
    # A file's tests share what it made, so they stay together; in the order of the folders, because by number of tests
    # (xdist's own order) the few long ones would come last, and one process would wait for them.
    args = session.posargs or ["-m", "not slow", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    session.run("python", "-m", "pytest", *args, env=QUIET)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff."""
    session.install(pinned("ruff"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session(venv_backend="none")
def typecheck(session: nox.Session) -> None:
    """Check types with mypy, in the environment of `tests`."""
    session.run(borrowed(session, "tests"), "-m", "mypy", *session.posargs, external=True)


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Print what the quickstart measured, in its environment; run it first if it has not finished."""
    python = borrowed(session, "quickstart")
    if not (HERE / RUN / "report.html").exists():
        cli = [python, "-m", "experiments.cli"]
        session.run(*cli, "search", "--config", RECIPE, "--run", RUN, env=QUIET, external=True)
    session.run(python, "-m", "experiments.bench.first_light", *session.posargs, env=QUIET, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Check links, commands and the recipe reference in the documents; `-- --write` renews the reference."""
    # What the command line imports before it does anything; the rest is not needed to read its options.
    session.install("-c", "constraints.txt", "pydantic", "PyYAML", "rich", "typer")
    session.run("python", "docs/check.py", *session.posargs, env={"PYTHONPATH": str(HERE)})
