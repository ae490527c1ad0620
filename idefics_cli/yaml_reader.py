"""YAML from users, as plain values: bounded in depth and in nodes before anything is built.

One document of texts, numbers, lists and mappings whose keys are unique texts. An alias counts as everything it stands
for, and `1:30` is a text, not a number in base 60. Knows no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

MAX_DEPTH = 50
MAX_NODES = 200_000
MAX_DIGITS = 400
_MESSAGE_LETTERS = 300

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_RESOLVED = {
    _INT: (r"[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+", "-+0123456789"),
    _FLOAT: (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""The numbers of YAML 1.1 but those to the base of 60, and what they begin with."""


class BadYAML(ValueError):
    """What is wrong with a text, and on which line if that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message[:_MESSAGE_LETTERS])
        self.line = line


class _StrictLoader(_Loader):  # type: ignore[misc]  # one of two classes
    """Numbers are decimal, as in JSON."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in _RESOLVED]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }

    def construct_number(self, node: Any) -> Any:
        pattern, _ = _RESOLVED[node.tag]
        if not isinstance(node, yaml.ScalarNode) or not re.fullmatch(pattern, node.value):
            raise _at("this is not a number", node.start_mark)
        if len(node.value) > MAX_DIGITS:
            raise _at(f"a number of more than {MAX_DIGITS} digits", node.start_mark)
        construct = self.construct_yaml_int if node.tag == _INT else self.construct_yaml_float
        return construct(node)


for _tag, (_pattern, _first) in _RESOLVED.items():
    _StrictLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list(_first))
    _StrictLoader.add_constructor(_tag, _StrictLoader.construct_number)


def parse_yaml(text: str) -> Any:
    """The value of a document, None where there is none. Raises BadYAML."""
    try:
        _check_size(text)
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_keys(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _at(str(error.problem), error.problem_mark) from error
    except yaml.YAMLError as error:
        raise BadYAML(str(error)) from error
    except (ValueError, OverflowError, RecursionError) as error:
        if isinstance(error, BadYAML):
            raise
        raise BadYAML(f"a value cannot be read ({error})") from error


def _check_size(text: str) -> None:
    """Follow the events of a text without building anything."""
    sizes: dict[str, int] = {}
    is_open: list[tuple[str | None, int]] = []
    nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        match event:
            case yaml.AliasEvent():
                if any(anchor == event.anchor for anchor, _ in is_open):
                    raise _at(f"the alias *{event.anchor} contains itself", event.start_mark)
                nodes += sizes.get(str(event.anchor), 0)
            case yaml.CollectionStartEvent():
                is_open.append((event.anchor, nodes))
                nodes += 1
            case yaml.CollectionEndEvent():
                anchor, before = is_open.pop()
                if anchor is not None:
                    sizes[anchor] = nodes - before
            case yaml.ScalarEvent():
                nodes += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1
        if len(is_open) > MAX_DEPTH:
            raise _at(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        if nodes > MAX_NODES:
            raise _at(f"more than {MAX_NODES:,} values, counted with its aliases expanded", event.start_mark)


def _check_keys(root: Any) -> None:
    for node in _each_node(root):
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if key.tag != _TEXT or not isinstance(key, yaml.ScalarNode):
                raise _at("a key is not a text; put it in quotes", key.start_mark)
            if key.value in seen:
                raise _at(f"the key {key.value[:100]!r} is given twice", key.start_mark)
            seen.add(key.value)


def _each_node(root: Any) -> Iterator[Any]:
    """Every node once, however many aliases lead to it."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, yaml.ScalarNode):
            continue
        inner = (one for pair in node.value for one in pair) if isinstance(node, yaml.MappingNode) else node.value
        for one in inner:
            if id(one) not in seen:
                seen.add(id(one))
                waiting.append(one)


def _at(message: str, mark: Any) -> BadYAML:
    return BadYAML(message, mark.line + 1 if mark is not None else None)
