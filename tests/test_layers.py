"""Imports only point left: search_spaces <- latency_predictors <- nas <- experiments."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ["search_spaces", "latency_predictors", "nas", "experiments"]
FILES = sorted(path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, top-level package) of every absolute import anywhere in a module, function bodies included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__", "files") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value.split(".")[0]


def forbidden(layer: str) -> set[str]:
    """Return the packages that a layer must not import."""
    right = set(LAYERS[LAYERS.index(layer) + 1 :]) | {"tests"}
    return right | ({"ray", "optuna"} if layer in LAYERS[:2] else set())


def test_there_are_files_in_every_layer() -> None:
    assert {path.parts[0] for path in FILES} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_left(path: Path) -> None:
    wrong = forbidden(path.parts[0])
    found = [f"{path}:{line} imports {name}" for line, name in imported((ROOT / path).read_text()) if name in wrong]
    assert not found, "; ".join(found)


def test_the_reader_sees_every_way_of_importing() -> None:
    source = (
        "import nas.run\nfrom experiments import cli\ndef f():\n    import ray\n"
        "importlib.import_module('optuna.study')\nfrom . import space\n"
    )
    assert [name for _, name in sorted(imported(source))] == ["nas", "experiments", "ray", "optuna"]
