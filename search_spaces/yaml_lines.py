"""YAML that knows its lines: what a key or a value says, and where in the file it says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import yaml

from search_spaces.errors import UserError, shown

Path: TypeAlias = Sequence[str | int]
"""Keys and list positions that lead from the top of a document to a value."""

MAX_CHARACTERS = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 16
_TAG = "tag:yaml.org,2002:"
_TAGS = ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "merge")
_NUMBERS = {"int": "-?(0|[1-9][0-9]*)", "float": r"[^_:]*"}
_TOO_DEEP = f"nested too deeply; a search space is nested at most {MAX_DEPTH} deep"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose every complaint has a line, and which stops at too deep a nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        # While reading, because PyYAML takes a time that grows with the square of the depth.
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=self.peek_event().start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # PyYAML lets through whatever int(), datetime() and the like raise
            reason = "too many digits" if "digits" in str(error) else error  # Python's own advice is for programmers
            problem = f"{str(node.value)[:40]!r} cannot be read ({reason}); put it in quotes if it is text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


@dataclass(frozen=True)
class Document:
    """A parsed YAML file.

    Attributes:
        where: name of the file for messages.
        data: what the file says, as plain Python.
        root: the same as nodes, which know their lines.
    """

    where: str
    data: Any
    root: yaml.Node

    @classmethod
    def parse(cls, where: str, text: str) -> Document:
        """Read one YAML document.

        Raises:
            UserError: not YAML, a key that is not text or given twice, or more than a person would write
                (which is what aliases of aliases make of a few lines).
        """
        if len(text) > MAX_CHARACTERS:
            raise UserError(
                f"{where}: has {len(text):,} characters; a search space has at most {MAX_CHARACTERS:,}: "
                "give decisions instead of lists of all options"
            )
        try:
            loader = _Loader(text)
            root = loader.get_single_node()
            if root is None:
                raise UserError(f"{where}:1: is empty; a search space has name and options")
            _check(where, root)
            return cls(where, loader.construct_document(root), root)
        except yaml.YAMLError as error:
            raise UserError(f"{where}:{_line_of_error(error, text)}: is not YAML: {_problem(error)}") from None

    def line(self, path: Path) -> int:
        """Line, counted from 1, of the deepest part of a path that the file has."""
        node, line = self.root, 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = self._entries(node).get(str(part))
                if found is None:
                    break
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def _entries(self, node: yaml.MappingNode) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """A mapping's keys and values by key: its own where a merge (<<) gives the same."""
        if id(node) not in self._known:
            self._known[id(node)] = {key.value: (key, value) for key, value in node.value}
        return self._known[id(node)]

    @cached_property
    def _known(self) -> dict[int, dict[str, tuple[yaml.Node, yaml.Node]]]:
        return {}

    def error(self, path: Path, message: str) -> UserError:
        """An error of this file at a path, with its line: ``space.yaml:12: message``."""
        return UserError(f"{self.where}:{self.line(path)}: {message}")


def _check(where: str, root: yaml.Node) -> None:
    """Raise for keys given twice, and for what would be too much with its aliases written out."""
    known: dict[int, tuple[int, int]] = {}  # values and depth of a node, by its identity: aliases share nodes
    open_: set[int] = set()

    def size(node: yaml.Node) -> tuple[int, int]:
        line = node.start_mark.line + 1
        if id(node) in open_:
            raise UserError(f"{where}:{line}: an alias contains itself; write it out")
        if id(node) in known:
            return known[id(node)]
        open_.add(id(node))
        _check_tag(where, node)
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(where, node)
            children = [value for _, value in node.value]
        sizes = [size(child) for child in children]
        values, depth = 1 + sum(each for each, _ in sizes), 1 + max((each for _, each in sizes), default=0)
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise UserError(
                f"{where}:{line}: has {values:,} values, nested {depth} deep, with its aliases written out; "
                f"a search space has at most {MAX_VALUES:,}, nested {MAX_DEPTH} deep"
            )
        open_.remove(id(node))
        known[id(node)] = values, depth
        return known[id(node)]

    size(root)


def _check_tag(where: str, node: yaml.Node) -> None:
    """Raise for what plain lists, mappings, numbers and text do not need, and for numbers that are not what they seem.

    To YAML 1.1 ``010`` is 8, ``0x10`` 16, ``1_0`` 10 and ``1:30`` 90.
    """
    line, kind = node.start_mark.line + 1, node.tag.removeprefix(_TAG)
    if kind not in _TAGS:
        tag = f"!!{kind}" if node.tag.startswith(_TAG) else node.tag
        raise UserError(
            f"{where}:{line}: {shown(tag)} is no type of a search space; legal are plain text, numbers, lists and "
            "mappings, written without a type"
        )
    if isinstance(node, yaml.ScalarNode) and not re.fullmatch(_NUMBERS.get(kind, "(?s:.*)"), node.value):
        raise UserError(
            f"{where}:{line}: {shown(node.value)} is another number to YAML than to most readers; write it in plain "
            "digits, such as 10 or 0.5, or in quotes if it is text"
        )


def _check_keys(where: str, node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            written = shown(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            raise UserError(f"{where}:{line}: {written} is used as a key; keys are text, put in quotes if need be")
        if key.value in seen:
            raise UserError(
                f"{where}:{line}: key {shown(key.value)} is given twice, first in line {seen[key.value]}; give it once"
            )
        seen[key.value] = line


def _line_of_error(error: yaml.YAMLError, text: str) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    return text.count("\n", 0, getattr(error, "position", 0)) + 1


def _problem(error: yaml.YAMLError) -> str:
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    return " ".join(", ".join(part for part in parts if part).split()) or " ".join(str(error).split())
