"""Which options of `nanosd calibrate` have an effect in which way of calibrating: no other is accepted."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import typer

from search_spaces.errors import UserError, shortened

#: What a call does. A call may do several at once: files beside a budget, say.
Way = Literal["evaluate", "everything", "files", "given", "budget", "at_hand", "away"]

_WORDS: Mapping[Way, str] = {
    "evaluate": "--evaluate",
    "everything": "a calibration that measures everything here",
    "files": "--from",
    "given": "--from, --anchor or --spec",
    "budget": "--budget",
    "at_hand": "--budget with --runner, or with --device local",
    "away": "--budget with a device that is not at hand",
}
#: The --device that stands for this machine.
LOCAL = "local"
_MAKING: tuple[Way, ...] = ("everything", "given", "budget")

#: Every parameter of the command, by its name there, and the ways in which it has an effect.
GOES_WITH: Mapping[str, tuple[Way, ...]] = {
    "out": ("evaluate", *_MAKING),
    "json": ("evaluate", *_MAKING),
    "evaluate": ("evaluate",),
    "config": _MAKING,
    "set_": _MAKING,
    "teacher": _MAKING,
    "space": _MAKING,
    "device": _MAKING,
    "precision": _MAKING,
    "threads": _MAKING,
    "dry_run": ("everything",),
    "more": ("files",),
    "from_": ("files",),
    "format_": ("files",),
    "subject": ("files",),
    "skip_unknown": ("files",),
    "latent_size": ("given", "budget"),
    "num_tokens": ("given", "budget"),
    "runtime": ("given", "budget"),
    "toolchain": ("given", "budget"),
    "anchor": ("given", "budget"),
    "spec": ("given", "budget"),
    "source": ("given", "budget"),
    "budget": ("budget",),
    "target_error": ("budget",),
    "measure": ("budget",),
    "batch": ("budget",),
    "runner": ("at_hand",),
    "option": ("at_hand",),
    "export": ("away",),
}


def ways(given: Collection[str], device: str | None, runner: str | None) -> frozenset[Way]:
    """What a call with these parameters (names as in `GOES_WITH`) does."""
    if "evaluate" in given:
        return frozenset({"evaluate"})
    found: set[Way] = set()
    if "from_" in given:
        found.add("files")
    if "budget" in given:
        found |= {"budget", "at_hand" if device == LOCAL or runner is not None else "away"}
    is_elsewhere = device not in (None, LOCAL)
    if not {"from_", "anchor", "spec", "source"}.isdisjoint(given) or (not found and is_elsewhere):
        found.add("given")
    return frozenset(found or {"everything"})


def check_options(context: typer.Context, found: frozenset[Way]) -> None:
    """UserError, naming the first, for an option on the command line that has no effect in these ways."""
    given = stated(context)
    for parameter in context.command.params:
        name = str(parameter.name)
        if name not in given or not found.isdisjoint(GOES_WITH[name]):
            continue
        flag = parameter.opts[0]
        value = _text(context.params[name])
        if "evaluate" in found:
            raise UserError(
                f"{flag}{value}: --evaluate judges a profile by its own measurements and goes with --out and --json "
                f"only; leave {flag} out"
            )
        where = "where everything is measured here" if "everything" in found else "in this call"
        wanted = ", or with ".join(_WORDS[way] for way in GOES_WITH[name] if way != "evaluate")
        raise UserError(f"{flag}{value}: has no effect {where}; it goes with {wanted}; leave it out, or add that")


def stated(context: typer.Context) -> frozenset[str]:
    """Names of the parameters that stand on the command line, whatever their value."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return frozenset(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")


def _text(value: Any) -> str:
    """A parameter's value as it follows the flag; nothing for a flag without one."""
    if isinstance(value, bool):
        return ""
    first = value[0] if isinstance(value, list | tuple) else value
    return f" {shortened(str(first))}"
