"""The run directory: where every phase of a run keeps what it made, guarded against a second driver."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas.atomic import write_json
from nas.config import Recipe, load_recipe, read_fields, save_recipe
from nas.recipe_hash import difference, is_hash_of, recipe_hash
from search_spaces.errors import UserError
from search_spaces.places import check_folder
from search_spaces.space import listed

CONFIG_FILE = "config.yaml"
MIN_FREE_BYTES = 200 * 2**20
_MOST_SHOWN = 3


class RunDirectory:
    """Paths of one run, its recipe and the seconds spent in each phase."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        return self.path / CONFIG_FILE

    @property
    def profile(self) -> Path:
        return self.path / "device_profile.json"

    @property
    def bank(self) -> Path:
        return self.path / "bank"

    @property
    def blocks(self) -> Path:
        return self.path / "blocks.json"

    @property
    def swap_table(self) -> Path:
        return self.path / "swap_table.json"

    @property
    def store(self) -> Path:
        return self.path / "store"

    @property
    def picks(self) -> Path:
        return self.path / "picks.json"

    @property
    def variants(self) -> Path:
        return self.path / "variants"

    @property
    def closing(self) -> Path:
        return self.path / "closing.json"

    @property
    def timings(self) -> Path:
        return self.path / "timings.json"

    @property
    def progress(self) -> Path:
        """The phase under way, see :mod:`nas.run.progress_file`."""
        return self.path / "progress.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def work(self) -> Path:
        """Measurements, checkpoints and caches that phases go on from."""
        return self.path / "work"

    def check_place(self) -> None:
        """Raise unless the folder exists or its nearest existing parent can hold it; nothing is written.

        Raises:
            UserError: a file in the way, or a parent that cannot be written.
        """
        check_folder(self.path, "run", advice="choose a folder with --run")

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise when the folder holds a run of another recipe.

        Raises:
            UserError: with both ways on.
        """
        if self.config.is_file() and (other := difference(self.recipe(), recipe)):
            raise UserError(
                f"run {self.path} was made with another recipe ({listed(other, _MOST_SHOWN)}); give this one "
                f"another folder (--run or --name), or go on with the old one: nanosd resume {self.path}"
            )

    def create(self, recipe: Recipe) -> None:
        """Make the folder and write its recipe, or check that it already holds the same one.

        Raises:
            UserError: another recipe is in the folder, or it cannot be written, or the disk is full.
        """
        self.check_recipe(recipe)
        if self.config.is_file():
            self.check_writable()
            if self.recipe() != recipe:  # other budgets, more candidates: the run goes on with them
                self._check_saving(recipe)
                save_recipe(recipe, self.config, like=read_fields(self.config))
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            save_recipe(recipe, self.config)
        except OSError as error:
            raise UserError(
                f"run {self.path}: cannot be written ({error.strerror}); choose a folder with --run"
            ) from None
        self.check_writable()

    def _check_saving(self, recipe: Recipe) -> None:
        """Raise where the run would not be its own any more: the very first versions hashed budgets, too."""
        known = self.first_hash()
        if known is not None and not is_hash_of(known, recipe, read_fields(self.config)):
            raise UserError(
                f"run {self.path} is of a version whose runs keep their budgets and number of candidates; leave them "
                f"as they are (nanosd resume {self.path}), or give this recipe another folder (--run or --name)"
            )

    def check_writable(self) -> None:
        """Raise unless something can be written into the folder.

        Raises:
            UserError: a read-only folder, or fewer than 200 MiB free.
        """
        probe = self.path / f".probe.{os.getpid()}"
        try:
            probe.write_bytes(b"x")
            probe.unlink()
            free = shutil.disk_usage(self.path).free
        except OSError as error:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
            raise UserError(
                f"run {self.path}: cannot be written ({error.strerror}); free space or mend its permissions, "
                f"then: nanosd resume {self.path}"
            ) from None
        if free < MIN_FREE_BYTES:
            raise UserError(
                f"run {self.path}: {free // 2**20} MiB are free, a run needs {MIN_FREE_BYTES // 2**20} MiB or more; "
                f"free space, then: nanosd resume {self.path}"
            )

    def recipe(self) -> Recipe:
        """The resolved recipe that the run was started with.

        Raises:
            UserError: no run here, or a recipe that cannot be read.
        """
        if not self.config.is_file():
            raise UserError(f"run {self.path}: no {CONFIG_FILE} there; start one with `nanosd search`")
        if not self.config.read_text(encoding="utf-8", errors="replace").strip():
            raise UserError(f"run {self.path}: {CONFIG_FILE} is empty; restore it, or start another run")
        recipe = load_recipe(self.config)
        known = self.first_hash()
        if known is not None and not is_hash_of(known, recipe, read_fields(self.config)):
            raise UserError(
                f"run {self.path}: {CONFIG_FILE} is not the recipe that the run was started with (hash {known}); "
                "restore it, or start another run"
            )
        return recipe

    def first_hash(self) -> str | None:
        """Hash of the recipe that the run was started with, by the version that did; None before it is written."""
        return self._provenance("recipe_hash")

    def recipe_hash(self, recipe: Recipe) -> str:
        """Hash that the run's candidates are kept under: by the version that started it, else by this one.

        `recipe` is one that :meth:`check_recipe` lets pass.
        """
        return self.first_hash() or recipe_hash(recipe)

    def teacher_key(self) -> str | None:
        """Key of the teacher that the run was started with; None before it is written."""
        return self._provenance("teacher_key")

    def _provenance(self, name: str) -> str | None:
        try:
            return str(json.loads((self.path / "provenance.json").read_text(encoding="utf-8"))[name])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the operating system releases it however the process ends.

        Raises:
            UserError: another process holds it.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / ".lock")
        try:
            # A moment of patience: whoever looks whether the run is held (`is_locked`) holds it for microseconds.
            lock.acquire(timeout=0.2)
        except Timeout:
            raise UserError(
                f"run {self.path}: another nanosd process is working on it; wait for it, stop it, "
                f"or look with: nanosd status {self.path}"
            ) from None
        except OSError as error:
            raise UserError(
                f"run {self.path}: cannot be locked ({error.strerror}); choose a folder with --run"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process is working on the run; nothing is written, also not into a read-only copy."""
        try:
            with open(self.path / ".lock", "rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # none yet, or a file system without locks
            return False
        return False

    def seconds(self) -> dict[str, float]:
        """Seconds spent per phase by all processes that ended a phase of this run."""
        try:
            data = json.loads(self.timings.read_text(encoding="utf-8"))
            return {str(phase): float(value) for phase, value in data["phases"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def add_seconds(self, phase: str, seconds: float) -> None:
        """Add to a phase's seconds."""
        known = self.seconds()
        known[phase] = round(known.get(phase, 0.0) + seconds, 3)
        write_json(self.timings, {"phases": known})
