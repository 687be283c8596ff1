"""How the command line ends: exit codes, and one line in place of a traceback for what the user can mend."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from experiments.output import say
from search_spaces.errors import UserError

_INTERRUPTED = 130
# Errors of the machine, not of the program, and what to do about each.
_MACHINE = {
    errno.ENOSPC: "free some space, then resume: what is finished is kept",
    errno.EDQUOT: "free some space, then resume: what is finished is kept",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then resume: what is finished is kept",
    errno.EROFS: "give a folder that can be written",
    errno.EACCES: "give a folder that can be written",
    errno.EPERM: "give a folder that can be written",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "a file stands where a folder is needed; give another path",
    errno.EISDIR: "a folder stands where a file is needed; give another path",
    errno.EEXIST: "something else is there; give another path",
    errno.ELOOP: "links go round in circles there; give another path",
    errno.EIO: "the disk cannot be read or written; give another path",
}


class _Stopped(Exception):
    """Ctrl-C that the user has been told about."""


@contextmanager
def resumable(run_dir: Path) -> Iterator[None]:
    """Say how to go on after Ctrl-C, in one line and with exit code 130, and after a file that could not be written."""
    from nas.atomic import WriteError

    try:
        yield
    except KeyboardInterrupt:
        started = (run_dir / "config.yaml").exists()
        say(f"stopped; `nanosd resume {run_dir}` goes on from here" if started else "stopped before the run began")
        raise _Stopped from None
    except WriteError as error:
        if not (run_dir / "config.yaml").exists():
            raise
        raise UserError(f"{error}, then `nanosd resume {run_dir}`: what is finished is kept") from error


def run_app(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code: 0, 2 for what the user must mend, 130 for Ctrl-C."""
    try:
        code = app(list(arguments), prog_name="nanosd", standalone_mode=False)
        if code == _INTERRUPTED:  # what typer makes of Ctrl-C in a verb that has no run to go on with
            say("stopped; the same command again goes on with what is kept")
    except _Stopped:
        return _INTERRUPTED
    except UserError as error:
        for line in str(error).splitlines():
            say(line)
        return 2
    except typer.TyperException as error:  # an unknown verb or option, a missing argument
        context = getattr(error, "ctx", None)
        verb = "nanosd" if context is None else context.command_path
        say(f"{error.format_message().rstrip('.')}; see {verb} --help")
        return 2
    except BrokenPipeError:  # `nanosd pareto RUN | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in _MACHINE:
            raise
        say(f"{error.filename or 'disk'}: {error.strerror}; {_MACHINE[error.errno]}")
        return 2
    return code if isinstance(code, int) else 0
