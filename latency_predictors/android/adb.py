"""Calls adb: argument lists on this side, quoted and restricted arguments on the phone's side.

`adb shell` hands its arguments, joined with blanks, to the phone's shell. So each is quoted, and none may have a
character that no argument of ours needs.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from latency_predictors.runners.base import DeviceError
from search_spaces.errors import UserError, shown

TIMED_OUT = 124
"""Exit code of a call that took too long, as of `timeout` on the phone."""

_LEGAL = re.compile(r"[A-Za-z0-9 _@%+=:,./|-]+")
_LEGAL_PATH = re.compile(r"/[A-Za-z0-9_@+=,./-]+")
_CALL_S = 30.0
_TRANSFER_S = 900.0
_MAX_REASON = 300
_ADVICE = {
    "unauthorized": "unlock it and accept 'Allow USB debugging'",
    "authorizing": "unlock it and accept 'Allow USB debugging'",
    "offline": "unplug it and plug it in again, or run `adb reconnect offline`",
    "no permissions": "give your user the right to the USB device (udev rules), then run `adb kill-server`",
    "recovery": "start Android on it",
    "sideload": "start Android on it",
    "bootloader": "start Android on it",
}


class Reply(NamedTuple):
    """How a call ended; `code` is that of the program on the phone for `shell`."""

    code: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line of what it said, errors first; at most 300 characters."""
        for text in (self.stderr, self.stdout):
            lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
            if lines:
                return "".join(c if c.isprintable() else " " for c in lines[-1])[:_MAX_REASON]
        return f"exit code {self.code} and no word"

    def says(self, text: str) -> bool:
        """Whether it said this, in either stream."""
        return text in self.stderr or text in self.stdout


def remote_path(path: str, what: str) -> str:
    """An absolute path on the phone without trailing slash; UserError, naming `what`, for anything else."""
    if not _LEGAL_PATH.fullmatch(path) or ".." in path.split("/"):
        raise UserError(
            f"{what}: {shown(path)} is no path on the phone; legal is an absolute one of letters, digits and _@+=,.-, "
            "such as /data/local/tmp/nanosd"
        )
    return path.rstrip("/")


class Adb:
    """One phone, by its serial number.

    Parameters
    ----------
    serial: as `adb devices` lists it; None: the only phone that is connected.
    program: adb's name or path. call_s: wall time after which a call counts as unanswered.

    Raises (every method): UserError where adb is missing, or the phone is not there (any more).
    """

    def __init__(self, serial: str | None = None, program: str = "adb", *, call_s: float = _CALL_S) -> None:
        self._program, self._call_s = program, call_s
        self._serial = self._choose(serial)

    def shell(self, *commands: Sequence[str], timeout_s: float | None = None) -> Reply:
        """Runs programs on the phone, one after another; the code is the last one's.

        A call without answer for `timeout_s` gives the code TIMED_OUT. UserError for an argument that is not legal.
        """
        for argument in (argument for command in commands for argument in command):
            if not _LEGAL.fullmatch(argument):
                raise UserError(
                    f"argument for the phone: {shown(argument)} is not legal; legal are letters, digits, blanks and "
                    "_@%+=:,./|-; rename the file or option"
                )
        reply = self._call(
            ["-s", self._serial, "shell", "; ".join(map(shlex.join, commands))], timeout_s or self._call_s
        )
        if reply.code != 0:
            self.check_connected()
        return reply

    def push(self, local: Path, remote: str) -> Reply:
        """Copies a file to the phone."""
        return self._transfer("push", str(local), remote)

    def pull(self, remote: str, local: Path) -> Reply:
        """Copies a file from the phone."""
        return self._transfer("pull", remote, str(local))

    def check_connected(self) -> None:
        """Raises UserError if the phone has gone."""
        reply = self._call(["-s", self._serial, "get-state"], self._call_s)
        if reply.code == 0 and reply.stdout.strip() == "device":
            return
        raise DeviceError(
            f"phone {shown(self._serial)}: the connection broke ({reply.reason}); check the cable, unlock it and "
            "start again: what was measured is kept"
        )

    def _transfer(self, verb: str, source: str, target: str) -> Reply:
        reply = self._call(["-s", self._serial, verb, source, target], _TRANSFER_S)
        if reply.code != 0:
            self.check_connected()
        return reply

    def _choose(self, serial: str | None) -> str:
        reply = self._call(["devices"], self._call_s)
        if reply.code != 0:
            raise DeviceError(f"adb: `adb devices` failed: {reply.reason}; run `adb kill-server` and try again")
        listed = reply.stdout.partition("List of devices attached")[2].splitlines()
        states = dict(line.split(maxsplit=1) for line in listed if len(line.split(maxsplit=1)) == 2)
        if not states:
            raise DeviceError(
                "adb: no phone is connected; plug one in, turn on 'USB debugging' in its developer options, and see "
                "that `adb devices` lists it"
            )
        there = ", ".join(states)
        if serial is None:
            if len(states) > 1:
                raise DeviceError(
                    f"serial: not given, and {len(states)} phones are connected; legal are {there}; give one"
                )
            serial = next(iter(states))
        elif serial not in states:
            raise DeviceError(f"serial: {shown(serial)} is not connected; legal are {there}; give one, or plug it in")
        state = states[serial].strip()
        if state != "device":
            advice = next((a for key, a in _ADVICE.items() if state.startswith(key)), "unplug it and plug it in again")
            raise DeviceError(f"phone {shown(serial)}: is {state.split('(')[0].strip()}; {advice}")
        return serial

    def _call(self, arguments: Sequence[str], timeout_s: float) -> Reply:
        # Files, not pipes: the server that adb may start keeps them open, and a pipe would be waited for.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                code = subprocess.run(
                    [self._program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    timeout=timeout_s,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                return Reply(TIMED_OUT, "", f"no answer within {timeout_s:g} s")
            except OSError as error:
                raise DeviceError(
                    f"adb: {shown(self._program)} cannot be run ({error.strerror}); install Android's platform-tools, "
                    "or give the path of adb"
                ) from None
            texts = []
            for stream in (stdout, stderr):
                stream.seek(0)
                texts.append(stream.read().decode("utf-8", errors="replace"))
        return Reply(code, *texts)
