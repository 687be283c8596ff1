"""Files on the phone: pushed once per content, complete or not there, and removed afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from latency_predictors.android.adb import Adb, Reply
from latency_predictors.android.perf_test import out_of_space
from latency_predictors.runners.base import DeviceError
from search_spaces.errors import UserError, shown

_CHUNK = 1 << 20
_OWN, _MARK = "nanosd-files", ".nanosd"
_DIGITS = 16


class Store:
    """`nanosd-files` in a folder on the phone; as a context manager it leaves nothing behind but what is to be kept.

    Only what lies in there is ever removed, and only if it has the mark that this class made it. What a session
    left that could not (it was killed, the phone unplugged) is removed when the next one begins. So one session
    measures on a phone at a time.
    """

    def __init__(self, adb: Adb, folder: str) -> None:
        self.adb = adb
        self._folder = f"{folder}/{_OWN}"
        self._run = f"{self._folder}/runs/{uuid.uuid4().hex[:8]}"
        self._is_claimed = False
        self._num_names = 0
        self._published: list[str] = []

    def __enter__(self) -> Store:
        self._claim()
        self._do(["rm", "-rf", f"{self._folder}/runs", f"{self._folder}/graphs"], ["mkdir", "-p", self._run])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with contextlib.suppress(UserError):  # the phone has gone: the next session removes what lies there
            self.adb.shell(["rm", "-rf", self._run, *self._published])

    def publish(self, kind: str, files: Mapping[str, Path], *, program: bool = False, keep: bool = False) -> str:
        """The folder on the phone with these files (name there -> file here), pushed unless it is there already.

        It appears under its name, the hash of its content, only when complete. `program`: make them executable.
        """
        self._claim()
        target = f"{self._folder}/{kind}/{_digest(files)}"
        if self.adb.shell(["test", "-d", target]).code != 0:
            part = f"{target}.part"
            self._do(["rm", "-rf", part], ["mkdir", "-p", part])
            for name, file in files.items():
                reply = self.adb.push(file, f"{part}/{name}")
                if reply.code != 0:
                    self.adb.shell(["rm", "-rf", part])
                    raise self._error(reply, f"{part}/{name}")
                if program:
                    self._do(["chmod", "755", f"{part}/{name}"])
            self._do(["mv", part, target])
        if not keep and target not in self._published:
            self._published.append(target)
        return target

    def _claim(self) -> None:
        """Makes the folder and marks it, unless that was done; a folder of somebody else's is refused."""
        if self._is_claimed:
            return
        mark = f"{self._folder}/{_MARK}"
        if self.adb.shell(["test", "-f", mark]).code != 0:
            self.adb.shell(["rmdir", self._folder])  # empty: left by a session that ended before it made its mark
            if self.adb.shell(["test", "-d", self._folder]).code == 0:
                raise DeviceError(
                    f"phone: {shown(self._folder)} is there and was not made by nanosd (it has no {_MARK}); "
                    "move it away, or give another folder"
                )
            self._do(["mkdir", "-p", self._folder])
            self._do(["touch", mark])
        self._is_claimed = True

    def new_name(self, name: str) -> str:
        """A path for a file of this session, never given before."""
        self._num_names += 1
        return f"{self._run}/{self._num_names}-{name}"

    def find(self, prefix: str) -> str:
        """The one file of this session whose name begins like this."""
        names = self.adb.shell(["ls", self._run]).stdout.split()
        start = prefix.removeprefix(f"{self._run}/")
        found = [name for name in names if name.startswith(start)]
        if len(found) != 1:
            raise DeviceError(
                f"phone: onnxruntime_perf_test wrote {len(found)} files {prefix}*; one was expected, update it"
            )
        return f"{self._run}/{found[0]}"

    def fetch(self, remote: str, local: Path) -> Path:
        """Copies a file from the phone to here."""
        reply = self.adb.pull(remote, local)
        if reply.code != 0:
            raise self._error(reply, remote)
        return local

    def fingerprint(self, program: str) -> str:
        """Hash of a program and of onnxruntime's shared library beside it, if there is one."""
        library = f"{program.rpartition('/')[0]}/libonnxruntime.so"
        said = self.adb.shell(["sha256sum", program, library]).stdout  # a missing library makes an exit code of 1
        sums = [line.split()[0] for line in said.splitlines() if line.strip()]
        return "+".join(text[:_DIGITS] for text in sums) or "unknown"

    def _do(self, *commands: Sequence[str]) -> None:
        reply = self.adb.shell(*commands)
        if reply.code != 0:
            raise self._error(reply, commands[-1][-1])

    def _error(self, reply: Reply, path: str) -> DeviceError:
        if reply.says("No space left on device"):
            return out_of_space(reply)
        return DeviceError(
            f"phone: {shown(path)} failed: {reply.reason}; give a folder that adb's user may write to, such as "
            "/data/local/tmp/nanosd"
        )


def _digest(files: Mapping[str, Path]) -> str:
    """Of names and contents."""
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(f"{name}\0{files[name].stat().st_size}\0".encode())
        with files[name].open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
    return sha.hexdigest()[:_DIGITS]
