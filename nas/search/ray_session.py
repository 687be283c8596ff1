"""Ray for one sweep: quiet, with its files out of the way, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

from nas.search.ray_watch import RayWatch
from search_spaces.errors import UserError

SESSION_FILE = "ray_session.json"
# In the environment of every process of a sweep's own Ray, so that exactly these can be found again.
TOKEN = "NANOSD_SWEEP_TOKEN"

# A UNIX socket's path has at most 107 bytes; Ray adds the 64 of
# /session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store
_MAX_TEMP_DIR = 107 - 64

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_LOG_TO_DRIVER": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    # Relative paths in a recipe mean the same in a worker.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Worker titles must not overwrite the environment in which TOKEN is looked for.
    "SPT_NOENV": "1",
    # Store and study are the state of a sweep; Tune's own files are never read.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000000",
    # Ctrl-C stops the sweep at once; what is finished is stored.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}


@contextlib.contextmanager
def ray_session(folder: Path, num_cpus: int, address: str | None) -> Iterator[Path]:
    """Start Ray here (or join the cluster at `address`) and stop it afterwards; yields a folder for Tune's files.

    An own Ray writes below a short temporary folder, which is removed at the end. What a killed driver of the same
    run left behind (its processes and its temporary folder, named in `folder`/ray_session.json) is removed first.
    Ray that this process has started or joined already is used as it is.

    Args:
        folder: of the run's store.
        num_cpus: of an own Ray; GPUs it counts itself.
        address: of a running cluster; the run directory must be on a file system that all its nodes share.

    Raises:
        UserError: no place for Ray's files, or no cluster at the address.
    """
    clear_leftovers(folder)
    token = uuid.uuid4().hex
    temp_dir = _make_temp_dir()
    note = folder / SESSION_FILE
    try:
        note.write_text(json.dumps({"token": token, "temp_dir": str(temp_dir), "driver_pid": os.getpid()}) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {note}: {error.strerror}; free space or make the folder writable") from None
    with _environment(_ENVIRONMENT | {TOKEN: token}):
        import ray

        own = not ray.is_initialized()
        watch: RayWatch | None = None
        try:
            if own:
                _start(num_cpus, address, temp_dir)
                watch = RayWatch(functools.partial(_end_without_ray, folder)) if address is None else None
            for name in ("ray", "ray.tune", "ray.air", "ray.train"):
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield temp_dir / "tune" if address is None else folder / "tune"
        except KeyboardInterrupt:
            if watch is None or watch.dead is None:
                raise
            raise UserError(_stopped(watch.dead)) from None
        finally:
            if watch is not None:
                watch.stop()
            if own:
                if watch is not None and watch.dead is not None:
                    _abandon()
                else:
                    ray.shutdown()
                _kill_token(token)
            shutil.rmtree(temp_dir, ignore_errors=True)
            shutil.rmtree(folder / "tune", ignore_errors=True)
            note.unlink(missing_ok=True)


_END = {"code": 1}


def end_with(code: int) -> None:
    """Say which exit code a process is to end with that has left a broken Ray behind (1 unless said)."""
    _END["code"] = code


def _stopped(dead: str) -> str:
    return (
        f"Ray stopped in the middle of the sweep (its {dead} died); what is finished is kept, go on with: nanosd resume"
    )


def _end_without_ray(folder: Path, dead: str) -> None:
    """End this process, whose main thread waits for a Ray that is not there; the next start clears up the study."""
    clear_leftovers(folder)
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which a progress display has hidden
    with contextlib.suppress(OSError):
        os.write(2, f"{show_cursor}\n{_stopped(dead)}\n".encode())
    os._exit(_END["code"])


def _abandon() -> None:
    """Leave a Ray that has lost one of its processes.

    At the end of this process Ray would wait a minute for the lost one, and its native threads would then crash in an
    interpreter that is half taken down; so the process ends by itself before, once everything else has been done.
    """
    import atexit

    from ray._private import worker

    if sys.excepthook is worker.custom_excepthook:  # which tells the GCS server about the error
        sys.excepthook = worker.normal_excepthook

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(_END["code"])

    atexit.register(end)  # the last one registered runs first: before those of Ray


def _start(num_cpus: int, address: str | None, temp_dir: Path) -> None:
    import ray

    if address is None:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=100 * 2**20,  # candidates are small; /dev/shm of containers often is too
            _temp_dir=str(temp_dir),
        )
        return
    # Ray itself would try for a minute and a half, and complain all the while.
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(
                f"no Ray cluster at address {address!r} ({error.strerror or error}); start one with: ray start --head"
            ) from None
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot join the Ray cluster at address {address!r} ({first}); start one with: ray start --head; if it "
            "asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on its head"
        ) from None


def room(cpus: float, gpus: float) -> tuple[int, int]:
    """How many workers of so many processors and GPUs the cluster has room for, in all and on its largest node."""
    import ray

    per_node = []
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            fits = has.get("CPU", 0.0) / cpus
            if gpus:
                # A GPU is shared, but a worker's part of one lies on one.
                each = math.floor(1 / gpus + 1e-9) if gpus < 1 else 1 / gpus
                fits = min(fits, has.get("GPU", 0.0) * each)
            per_node.append(math.floor(fits + 1e-9))
    return sum(per_node), max(per_node, default=0)


def clear_leftovers(folder: Path) -> int:
    """End the processes and remove the temporary folder of a sweep of this run whose driver was killed.

    Ray's own daemons end with their driver and its workers 1-2 s later, but some agents stay for a while, and a worker
    in the middle of an evaluation would store its result in competition with the new driver's.

    Returns:
        Number of processes that were ended.
    """
    note = folder / SESSION_FILE
    try:
        data = json.loads(note.read_text())
        token, temp_dir = str(data["token"]), Path(data["temp_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    ended = _kill_token(token)
    if temp_dir.name.startswith("nsd-ray-"):
        shutil.rmtree(temp_dir, ignore_errors=True)
    note.unlink(missing_ok=True)
    return ended


def _kill_token(token: str) -> int:
    """SIGKILL every process that has this token in its environment, and wait until they are gone."""
    found = []
    for process in psutil.process_iter():
        # Only processes of this user show their environment.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(TOKEN) == token:
                found.append(process)
    for process in found:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(found, timeout=10)
    return len(found)


def _make_temp_dir() -> Path:
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if len(os.fsencode(base)) + len("/nsd-ray-12345678") <= _MAX_TEMP_DIR:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="nsd-ray-", dir=base))
    raise UserError(
        f"Ray needs a writable temporary folder with a path of at most {_MAX_TEMP_DIR - 17} bytes, TMPDIR is "
        f"{tempfile.gettempdir()!r} and /tmp cannot be written; set TMPDIR to a short one"
    )


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
