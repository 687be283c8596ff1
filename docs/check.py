"""Check that the documents are true: links lead somewhere, commands exist, the recipe reference is up to date.

Run by `python -m nox -s docs`; `python docs/check.py --write` renews the reference in docs/writing-a-recipe.md.
"""

import ast
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "writing-a-recipe.md"
BEGIN, END = "<!-- fields: begin (python docs/check.py --write) -->", "<!-- fields: end -->"
SKIPPED = {".git", ".nox", ".venv", "runs", "node_modules", ".pytest_cache", ".ruff_cache", ".mypy_cache"}

_FENCE = re.compile(r"^(```|~~~)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
_CODE = re.compile(r"`([^`\n]+)`")
_SESSION = re.compile(r"nox -s ([a-z ]+)")


def documents() -> list[Path]:
    """Return every Markdown file of the project."""
    return sorted(path for path in ROOT.rglob("*.md") if not SKIPPED & set(path.relative_to(ROOT).parts))


def split(text: str) -> tuple[list[str], list[str]]:
    """Return the prose lines and the lines inside code fences, continuations joined."""
    prose: list[str] = []
    code: list[str] = []
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        if _FENCE.match(line.strip()):
            fenced = not fenced
        else:
            (code if fenced else prose).append(line)
    return prose, code


def anchors(text: str) -> set[str]:
    """Return the anchors that the headings of a document get on common Markdown hosts."""
    titles = [line.lstrip("#").strip().lower() for line in split(text)[0] if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def bad_links(path: Path, prose: list[str]) -> Iterator[str]:
    """Yield what is wrong with the relative links of a document."""
    for target in (match for line in prose for match in _LINK.findall(_CODE.sub("", line))):
        if re.match(r"[a-z]+:", target):  # the network is not asked
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"link to {target}: there is no such file"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"link to {target}: there is no such heading"


def bad_command(line: str) -> Iterator[str]:
    """Yield what is wrong with one shell line, if it calls nanosd or nox."""
    words = shlex.split(line.lstrip("$> "), comments=True)
    for session in " ".join(_SESSION.findall(" ".join(words))).split():
        if session not in sessions():
            yield f"`{line.strip()}`: nox has no session {session}"
    if words[:3] == ["python", "-m", "experiments.cli"]:
        words = ["nanosd", *words[3:]]
    if not words or words[0] != "nanosd":
        return
    command, rest = commands(), words[1:]
    while rest and not rest[0].startswith("-") and getattr(command, "commands", None):
        if rest[0] not in command.commands:
            yield f"`{line.strip()}`: there is no verb {rest[0]}"
            return
        command, rest = command.commands[rest[0]], rest[1:]
    kinds = ("opts", "secondary_opts")  # --check and --no-check
    known = {name for each in command.params for kind in kinds for name in getattr(each, kind, [])} | {"--help"}
    for word, value in itertools.pairwise([*rest, ""]):
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            yield f"`{line.strip()}`: there is no option {option}"
        if option == "--set":
            yield from bad_override(value)
        if option == "--config" and value.startswith("experiments/") and not (ROOT / value).is_file():
            yield f"`{line.strip()}`: there is no recipe {value}"


def bad_override(text: str) -> Iterator[str]:
    """Yield what is wrong with the key of a `--set key=value`."""
    from nas.config import Recipe
    from nas.fields import walk

    key = text.partition("=")[0]
    if key not in dict(walk(Recipe)) and key not in ("a.b", "section.key"):
        yield f"--set {text}: there is no such key"


def commands() -> Any:
    """Return the command tree of `nanosd`."""
    import typer.main

    from experiments.cli import app

    return typer.main.get_command(app)


def sessions() -> set[str]:
    """Return the names of nox's sessions, read from the noxfile without running it."""
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {function.name for function in functions if "session" in "".join(map(ast.dump, function.decorator_list))}


def with_reference(text: str) -> str:
    """Return the recipe document with the tables of fields as the code has them now."""
    from nas.config import Recipe
    from nas.fields import reference

    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{reference(Recipe)}\n{END}{after}"


def problems() -> list[str]:
    """Return everything that is wrong, one line each, with the file's name first."""
    found = []
    for path in documents():
        prose, code = split(path.read_text(encoding="utf-8"))
        spans = [span for line in prose for span in _CODE.findall(line) if span.startswith(("nanosd ", "python -m"))]
        wrong = [
            *bad_links(path, prose),
            *(each for line in [*code, *spans] if _calls(line) for each in bad_command(line)),
        ]
        found += [f"{path.relative_to(ROOT)}: {each}" for each in wrong]
    text = REFERENCE.read_text(encoding="utf-8")
    if text != with_reference(text):
        found.append(
            f"{REFERENCE.relative_to(ROOT)}: the tables of fields are out of date; run python docs/check.py --write"
        )
    return found


def _calls(line: str) -> bool:
    return bool(re.match(r"[\s$>]*(nanosd|python -m) ", line))


def main() -> int:
    """Check, or with --write renew the reference first; return 1 if anything is wrong."""
    if "--write" in sys.argv[1:]:
        REFERENCE.write_text(with_reference(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
    found = problems()
    print("\n".join([*found, f"{len(documents())} documents, {len(found)} problems"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
