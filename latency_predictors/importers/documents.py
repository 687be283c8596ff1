"""YAML and JSON from strangers, read without building anything but mappings, lists and text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from latency_predictors.importers.base import Source, short
from search_spaces.errors import UserError

MAX_YAML_CHARS = 16 << 20
MAX_DEPTH = 32


@dataclass(frozen=True)
class Node:
    """A YAML value and the line it stands on: text (scalars are not converted), a list or a mapping."""

    value: str | list[Node] | dict[str, Node]
    line: int

    def get(self, *keys: str) -> Node | None:
        """The node under these keys; None where one is missing or a parent is no mapping."""
        node: Node | None = self
        for key in keys:
            node = node.value.get(key) if node is not None and isinstance(node.value, dict) else None
        return node

    @property
    def text(self) -> str | None:
        """The scalar's text; None for a list, a mapping or YAML's null."""
        return self.value if isinstance(self.value, str) and self.value not in ("", "~", "null") else None

    @property
    def items(self) -> list[tuple[str, Node]]:
        """The entries of a mapping; none if it is none."""
        return list(self.value.items()) if isinstance(self.value, dict) else []


class _Builder:
    """Puts the events of a YAML parser together; every refusal names the line."""

    def __init__(self, source: Source) -> None:
        self.root: Node | None = None
        self._source = source
        self._open: list[Node] = []  # lists and mappings not yet ended
        self._key: list[str | None] = []  # of each of them the key whose value is due

    def scalar(self, line: int, text: str) -> None:
        if self._open and isinstance(self._open[-1].value, dict) and self._key[-1] is None:
            if text in self._open[-1].value:
                raise self._source.error(line, f"key {short(text)} is given twice; keep one")
            self._key[-1] = text
        else:
            self._put(Node(text, line))

    def start(self, line: int, empty: list[Node] | dict[str, Node]) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise self._source.error(line, f"nested more than {MAX_DEPTH} levels deep; these are no measurements")
        node = Node(empty, line)
        self._put(node)
        self._open.append(node)
        self._key.append(None)

    def end(self) -> None:
        self._open.pop()
        self._key.pop()

    def _put(self, node: Node) -> None:
        if not self._open:
            if self.root is not None:
                raise self._source.error(node.line, "a second YAML document; a file has one")
            self.root = node
            return
        parent, key = self._open[-1].value, self._key[-1]
        if isinstance(parent, list):
            parent.append(node)
        elif isinstance(parent, dict):
            if key is None:
                raise self._source.error(node.line, "a key that is no text; keys are names")
            parent[key] = node
            self._key[-1] = None


def load_yaml(source: Source) -> Node:
    """The one document of a YAML file, from the parser's events: no tag is resolved, no object made.

    Aliases are refused (a few lines of them expand to gigabytes), and so are tags, a key given twice,
    nesting beyond 32 levels, a second document, and more than 16 Mi characters.
    """
    import yaml

    if len(source.text) > MAX_YAML_CHARS:
        row = source.text.count("\n", 0, MAX_YAML_CHARS) + 1
        raise source.error(row, f"YAML of more than {MAX_YAML_CHARS >> 20} Mi characters; give one model's perf.yaml")
    # libyaml is ten times as fast; PyYAML may have been built without it.
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    builder = _Builder(source)
    try:
        for event in yaml.parse(source.text, Loader=loader):
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            if isinstance(event, yaml.AliasEvent):
                raise source.error(line, "a YAML alias; aliases are not read, write the value out")
            if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
                raise source.error(line, f"tag {short(event.tag)}; tags are not read, remove it")
            if isinstance(event, yaml.ScalarEvent):
                builder.scalar(line, event.value)
            elif isinstance(event, yaml.MappingStartEvent):
                builder.start(line, {})
            elif isinstance(event, yaml.SequenceStartEvent):
                builder.start(line, [])
            elif isinstance(event, yaml.CollectionEndEvent):
                builder.end()
    except yaml.YAMLError as error:
        raise _yaml_error(source, error) from None
    if builder.root is None:
        raise source.error(1, "there is no YAML in it; give the file that AI Hub Models publishes")
    return builder.root


def _yaml_error(source: Source, error: Exception) -> UserError:
    """The parser's complaint in one line; its two kinds of errors keep the place in different fields."""
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    row = 1
    if mark is not None:
        row = mark.line + 1
    elif isinstance(position, int):
        row = source.text.count("\n", 0, position) + 1
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "no YAML"
    return source.error(row, f"not readable as YAML: {problem}")


def load_json(source: Source) -> Any:
    """The value of a JSON file; UserError with the row for anything else."""
    try:
        return json.loads(source.text)
    except json.JSONDecodeError as error:
        cut_off = error.pos >= len(source.text.rstrip())
        hint = "; it was cut off: end the profiling session before the process" if cut_off else ""
        raise source.error(error.lineno, f"not readable as JSON: {error.msg}{hint}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, nesting beyond the stack
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"
        raise source.error("$", f"not readable as JSON: {reason}") from None
