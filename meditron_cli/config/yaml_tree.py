"""Parse YAML into a tree in which every value has its location, and merge such trees.

Scalars are those of YAML 1.2's core schema (yaml.org/spec/1.2.2, section 10.3.2), not of YAML 1.1,
which PyYAML reads: ``3e-4`` is a number, ``24:00:00`` and ``no`` are words, ``010`` is ten.
Anchors, aliases, tags and keys given twice are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from meditron_cli.config.diagnostics import Location, Problems, Source


@dataclass(frozen=True)
class ScalarNode:
    """A single value."""

    location: Location
    value: str | int | float | bool | None
    text: str
    """As it was written, without quotes."""


@dataclass(frozen=True)
class ListNode:
    """A list."""

    location: Location
    items: tuple[Node, ...]


@dataclass(frozen=True)
class Entry:
    """A key's location, and its value."""

    key_location: Location
    node: Node


@dataclass(frozen=True)
class MapNode:
    """Keys with values."""

    location: Location
    entries: Mapping[str, Entry]


Node = ScalarNode | ListNode | MapNode
KeyPath = tuple[str | int, ...]

CONSTANTS: dict[str, bool | float | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{
        f"{sign}{word}": float(f"{sign}inf")
        for sign in ("", "+", "-")
        for word in (".inf", ".Inf", ".INF")
    },
}
NUMBERS: tuple[tuple[str, Callable[[str], int | float]], ...] = (
    (r"[-+]?[0-9]{1,4000}", int),
    (r"0o[0-7]+", lambda text: int(text[2:], 8)),
    (r"0x[0-9a-fA-F]+", lambda text: int(text[2:], 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
)


def plain_scalar(text: str) -> str | int | float | bool | None:
    """Return the value of an unquoted scalar, by the core schema of YAML 1.2."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    for pattern, convert in NUMBERS:
        if re.fullmatch(pattern, text):
            return convert(text)
    return text


class Refused(yaml.MarkedYAMLError):
    """Valid YAML that configuration files may not contain."""


class Composer(yaml.SafeLoader):
    """PyYAML's composer without anchors, aliases and tags: each value stands where it applies."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:
            raise Refused(
                problem="anchors and aliases are not supported; write the value out",
                problem_mark=event.start_mark,
            )
        if getattr(event, "tag", None) is not None:
            raise Refused(
                problem="tags are not supported; omit the word with '!', or quote it",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def parse(text: str, source: Source, problems: Problems) -> Node | None:
    """Return the tree of a YAML text; None, with a problem noted, if it is not YAML or empty."""
    try:
        loader = Composer(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = Location(source, mark.line + 1, mark.column + 1) if mark else Location(source)
        problems.add(location, "", translate_yaml_error(error))
        return None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        problems.add(
            Location(source, line, column),
            "",
            f"the character U+{ord(text[error.position]):04X} is not allowed in YAML",
        )
        return None
    except RecursionError:
        problems.add(Location(source), "", "lists and mappings are nested too deeply")
        return None
    if root is None:
        problems.add(Location(source), "", "empty; write at least one key")
        return None
    return from_yaml(root, source, (), problems)


WORDS = (
    ("found character '\\t'", "a tab; indent with spaces"),
    ("that cannot start any token", "a text that starts with this character must be quoted"),
    (
        "mapping values are not allowed here",
        "a ':' that cannot stand here; quote the text, or check the indentation",
    ),
    ("could not find expected ':'", "no ':' after the key before this"),
    ("found unexpected end of stream", "a quote or bracket is not closed"),
    ("'<stream end>'", "a quote or bracket is not closed"),
    ("expected ',' or", "a ',' or a closing bracket is missing before this"),
    ("expected a single document", "a second document ('---'); one file holds one"),
    ("but found another document", "a second document ('---'); one file holds one"),
    ("expected <block end>", "not indented like the lines before it, or a quote is misplaced"),
)
"""Parts of PyYAML's messages (yaml/scanner.py, parser.py, composer.py of 6.0) and their meaning."""


def translate_yaml_error(error: yaml.MarkedYAMLError) -> str:
    """Translate PyYAML's message."""
    message = f"{error.context or ''} {error.problem or ''}".strip()
    if isinstance(error, Refused):
        return message
    known = (words for part, words in WORDS if part in message)
    return next(known, f"not YAML: {message}")


def from_yaml(node: yaml.Node, source: Source, where: KeyPath, problems: Problems) -> Node:
    """Convert PyYAML's tree to ours; note duplicate keys and keys that are not text."""
    location = Location(source, node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.ScalarNode):
        value = plain_scalar(node.value) if node.style is None else node.value
        return ScalarNode(location, value, node.value)
    if isinstance(node, yaml.SequenceNode):
        items = [
            from_yaml(item, source, (*where, i), problems) for i, item in enumerate(node.value)
        ]
        return ListNode(location, tuple(items))
    entries: dict[str, Entry] = {}
    for key, value in node.value:
        key_location = Location(source, key.start_mark.line + 1, key.start_mark.column + 1)
        if not isinstance(key, yaml.ScalarNode):
            problems.add(key_location, key_text(where), "a list or mapping cannot be a key")
            continue
        path = (*where, key.value)
        if key.value in entries:
            first = entries[key.value].key_location
            problems.add(
                key_location, key_text(path), f"given twice; first at {first.line}:{first.column}"
            )
            continue
        entries[key.value] = Entry(key_location, from_yaml(value, source, path, problems))
    return MapNode(location, entries)


def key_text(where: KeyPath) -> str:
    """Return a key path as text: ``evaluate.benchmarks[0].path``."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in where)
    return "".join(parts).removeprefix(".")


def merge(below: Node, above: Node) -> Node:
    """Merge two trees: the keys of both; the upper value takes precedence.

    Lists and scalars are replaced whole. Every node keeps its own location.
    """
    if not isinstance(below, MapNode) or not isinstance(above, MapNode):
        return above
    entries = dict(below.entries)
    for key, entry in above.entries.items():
        under = entries.get(key)
        node = merge(under.node, entry.node) if under else entry.node
        entries[key] = Entry(entry.key_location, node)
    return MapNode(above.location, entries)


def inside(node: Node, step: str | int) -> Node | None:
    """Return the value one step down, None if there is none."""
    if isinstance(node, MapNode) and step in node.entries:
        return node.entries[str(step)].node
    if isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
        return node.items[step]
    return None


def find(root: Node, where: KeyPath) -> Node | None:
    """Return the value at a key path, None if nothing was written there."""
    node: Node | None = root
    for step in where:
        node = inside(node, step) if node else None
    return node


def location_at(root: Node, where: KeyPath) -> Location:
    """Return the location of the value at a key path, or of the innermost value around it."""
    node = root
    for step in where:
        below = inside(node, step)
        if below is None:
            break
        node = below
    return node.location


def key_location_at(root: Node, where: KeyPath) -> Location:
    """Return the location of the key at a key path, or that of the value where it has no key."""
    parent = find(root, where[:-1])
    if isinstance(parent, MapNode) and where[-1] in parent.entries:
        return parent.entries[str(where[-1])].key_location
    return location_at(root, where)


def locations(root: Node, prefix: str = "") -> dict[str, str]:
    """Return where each value was written, by dotted key; a list is one value."""
    if not isinstance(root, MapNode):
        return {prefix.removesuffix("."): str(root.location)}
    places: dict[str, str] = {}
    for key, entry in root.entries.items():
        places.update(locations(entry.node, f"{prefix}{key}."))
    return places


def from_plain(value: Any, location: Location) -> Node:
    """Return the tree of dicts, lists and scalars, all with one location."""
    if isinstance(value, dict):
        items = ((key, from_plain(item, location)) for key, item in value.items())
        return MapNode(location, {key: Entry(location, node) for key, node in items})
    if isinstance(value, list):
        return ListNode(location, tuple(from_plain(item, location) for item in value))
    return ScalarNode(location, value, str(value))


def to_plain(node: Node) -> Any:
    """Return dicts, lists and scalars."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, ListNode):
        return [to_plain(item) for item in node.items]
    return {key: to_plain(entry.node) for key, entry in node.entries.items()}
