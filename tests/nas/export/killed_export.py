"""Run by test_kill.py: exports in child processes, each killed at another moment.

Usage: killed_export.py FOLDER NUM_EARLY NUM_LATE. A child counts its own file operations beside and below FOLDER
through Python's audit events and sends itself SIGKILL at the n-th: NUM_EARLY moments spread over the whole export
and the last NUM_LATE ones, where folders are renamed. Prints JSON lines.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from nas.export import VariantCard, export_diffusers, load_variant
from nas.export.folders import recover
from nas.export.variant import check_files, read_variant
from search_spaces.candidate import Candidate
from search_spaces.errors import UserError
from search_spaces.surgery import assemble

WATCHED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile")


def state(folder: Path, load: bool = False) -> str:
    """`absent`, `broken: ...` or the name of the variant that lies there whole."""
    if not folder.exists():
        return "absent"
    try:
        variant = read_variant(folder)
        check_files(folder, variant)
        if load:
            load_variant(folder)
    except UserError as error:
        return f"broken: {error}"
    return variant.name


def export_in_child(export: Callable[[], None], folder: Path, moment: int | None) -> tuple[bool, int]:
    """Whether a child was killed at its `moment`-th file operation, and how many it had without a moment."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event in WATCHED and str(folder.parent) in str(arguments):
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            export()
        finally:
            os.write(send, str(count).encode())
            os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(send)
    with os.fdopen(receive) as stream:
        text = stream.read()
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, int(text or 0)


def main(folder: Path, num_early: int, num_late: int) -> None:
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None and spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    sys.modules["conftest"] = conftest
    spec.loader.exec_module(conftest)
    teacher = conftest.make_teacher()
    staged = assemble(teacher.unet, Candidate.from_id("RA-RA-RA-none-RARA-RARA-RARA"))

    def export(name: str) -> None:
        export_diffusers(teacher, staged, folder, VariantCard(name=name, space="nanosd"))

    def put_back(old: str) -> None:
        if old == "absent":
            shutil.rmtree(folder, ignore_errors=True)
        else:
            export(old)

    for old in ("absent", "old"):
        put_back(old)
        _, total = export_in_child(lambda: export("new"), folder, None)
        late = range(total - num_late + 1, total + 1)
        for moment in [*range(1, late.start, max(1, total // num_early)), *late]:
            put_back(old)
            killed, _ = export_in_child(lambda: export("new"), folder, moment)
            seen = state(folder)
            recover(folder)
            recovered = state(folder, load=True)
            leftovers = [name for name in os.listdir(folder.parent) if name != folder.name]
            row = {"old": old, "moment": moment, "killed": killed, "seen": seen, "recovered": recovered}
            print(json.dumps({**row, "leftovers": leftovers}), flush=True)
        export("new")
        print(json.dumps({"old": old, "finished": state(folder)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
