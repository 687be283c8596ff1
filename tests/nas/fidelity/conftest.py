"""The bundled toy teacher, and functions of published packages that cannot be imported whole."""

from __future__ import annotations

import ast
import importlib
import sys
import types
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.teacher import Teacher, load_teacher


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy() -> Teacher:
    return load_teacher("toy")


def _folder(package: str) -> Path:
    spec = find_spec(package)  # a top-level package is found, not run
    if spec is None or spec.origin is None:
        pytest.skip(f"{package} is not installed: pip install --no-deps torch-fidelity pytorch-fid")
    return Path(spec.origin).parent


def published_module(package: str, name: str) -> Any:
    """A module of a package without the package's own `__init__`, which imports torchvision."""
    folder = _folder(package)
    if package not in sys.modules:
        bare = types.ModuleType(package)
        bare.__path__ = [str(folder)]
        bare.__spec__ = find_spec(package)
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{name}")


def published_functions(package: str, file: str, *names: str, **known: Any) -> list[Any]:
    """Functions of a file whose imports are not met, compiled as they stand there."""
    tree = ast.parse((_folder(package) / file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    space: dict[str, Any] = {"np": np, **known}
    exec(compile(tree, file, "exec"), space)
    return [space[name] for name in names]
