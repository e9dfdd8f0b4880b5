"""Translate pydantic's errors: location, key, what is wrong, what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from meditron_cli.config import refused
from meditron_cli.config.diagnostics import Problems
from meditron_cli.config.field_types import VARIANT
from meditron_cli.config.section import Conflicts, Section, item_type, section_in
from meditron_cli.config.yaml_tree import (
    KeyPath,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    find,
    key_location_at,
    key_text,
    location_at,
    plain_scalar,
)

ErrorDetails = Mapping[str, Any]

SECTION = "keys with values"
NOUNS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": SECTION,
    "model_type": SECTION,
    "model_attributes_type": SECTION,
    "path_type": "text",
}
"""The expected kind of value, by pydantic's error type."""

ADDRESS = "an address"

LIMITS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def translate(
    model: type[Section],
    root: Node,
    errors: Iterable[ErrorDetails],
    problems: Problems,
    partial: bool,
) -> None:
    """Note pydantic's errors as sentences; several at one value (of a union) become one."""
    expected: dict[KeyPath, list[str]] = {}
    for error in map(without_variants, errors):
        where = error["loc"]
        kind = error["type"]
        if kind == "missing":
            if not partial or any(isinstance(step, int) for step in where):
                problems.add(location_at(root, where), key_text(where), "missing")
        elif kind == "extra_forbidden":
            problems.add(key_location_at(root, where), key_text(where), unknown_key(model, where))
        elif kind in NOUNS:
            written = where if find(root, where) else where[:-1]
            expected.setdefault(written, []).append(NOUNS[kind])
        else:
            note_value(root, error, problems)
    for where, nouns in expected.items():
        node = find(root, where) or root
        known = keys_at(model, where) if nouns == [SECTION] else []
        problems.add(node.location, key_text(where), kind_message(where, node, nouns, known))


def kind_message(where: KeyPath, node: Node, nouns: list[str], known: list[str]) -> str:
    """Return that a value is of another kind than expected."""
    found = ADDRESS if is_address(where, node) else described(node, nouns[0])
    message = f"expected {' or '.join(dict.fromkeys(nouns))}, found {found}"
    if known and isinstance(node, ScalarNode) and node.value is not None:
        message += f"; its keys: {', '.join(known)}"
    return message


def is_address(where: KeyPath, node: Node | None) -> bool:
    """Return whether a value is an address of a receiver by mistake, which is never printed."""
    if where[:1] != ("notify",) or not isinstance(node, ScalarNode):
        return False
    return any(letter in node.text for letter in ":@")


def without_variants(error: ErrorDetails) -> ErrorDetails:
    """Return an error whose place has only keys and numbers."""
    where = (step for step in error["loc"] if not str(step).startswith(VARIANT))
    return {**error, "loc": tuple(where)}


def note_value(root: Node, error: ErrorDetails, problems: Problems) -> None:
    """Note an invalid value of the right type, or a conflict between several values."""
    where: KeyPath = error["loc"]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, Conflicts):
        for key, message in cause.conflicts:
            steps = [int(step) if step.isdigit() else step for step in key.split(".")]
            note_conflict(root, where, (*where, *steps), message, problems)
    elif where and where[-1] == "[key]":
        written = where[:-1]
        problems.add(key_location_at(root, written), key_text(written), str(cause))
    else:
        problems.add(location_at(root, where), key_text(where), value_message(root, error))


def note_conflict(
    root: Node, section: KeyPath, key: KeyPath, message: str, problems: Problems
) -> None:
    """Note a conflict of a key with others of its section that the message names, at the one of
    them whose layer has the highest precedence: the last change made the conflict.
    """
    location, node = location_at(root, key), find(root, key)
    named = [(*section, word) for word in re.findall(r"[a-z_0-9]+", message)]
    others = [location_at(root, name) for name in named if find(root, name)]
    last = max([location, *others], key=lambda one: one.source.rank)
    if node and last.source.rank > location.source.rank:
        message += f"; {key_text(key)} is from {location}, set it too"
        location = last
    problems.add(location, key_text(key), message)


def value_message(root: Node, error: ErrorDetails) -> str:
    """Return what is wrong with one value."""
    kind, context = error["type"], error.get("ctx", {})
    node = find(root, error["loc"]) or find(root, error["loc"][:-1])  # a list's only item
    text = node.text if isinstance(node, ScalarNode) else "this"
    if kind in LIMITS:
        words, bound = LIMITS[kind]
        return f"must be {words} {number(context[bound])}, found {text}"
    if kind == "literal_error":
        if reason := refused.reason_of_value(error["loc"], text):
            return reason
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"expected one of {', '.join(choices)}, found {text!r}{did_you_mean(text, choices)}"
    if kind == "value_error":
        found = ADDRESS if is_address(error["loc"], node) else repr(text)
        return f"{context['error']}, found {found}"
    if kind == "finite_number":
        return f"must be a finite number, found {text}"
    return f"{error['msg'][:1].lower()}{error['msg'][1:]}"


def number(bound: float) -> str:
    """Return a limit as people write it: ``100000000``, not ``1e+08``."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def described(node: Node, expected: str) -> str:
    """Describe a value of the wrong type, and how to write it where that is clear."""
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MapNode):
        return SECTION
    if node.value is None:
        return "nothing"
    if isinstance(node.value, str):
        return f"the text {node.text!r}{text_advice(node, expected)}"
    kind = "" if isinstance(node.value, bool) else "the number "
    advice = {"text": f'; put it in quotes: "{node.text}"', "a list": f"; write [{node.text}]"}
    return f"{kind}{node.text}{advice.get(expected, '')}"


def text_advice(node: ScalarNode, expected: str) -> str:
    """Return how to turn a text into the expected type."""
    if expected == "a list":
        return f"; write [{node.text}]"
    if expected == "true or false":
        words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        instead = words.get(node.text.lower())
        return f"; write {instead}" if instead else ""
    value = plain_scalar(node.text)
    return "; write it without quotes" if isinstance(value, int | float) else ""


def unknown_key(model: type[Section], where: KeyPath) -> str:
    """Return why a key is refused: name the nearest known key, its section, or all known keys."""
    if reason := refused.reason_of_key(where):
        return reason
    known = keys_at(model, where[:-1])
    key = str(where[-1])
    if near := did_you_mean(key, known):
        return f"unknown key{near}"
    elsewhere = [dotted for dotted in dotted_keys(model) if dotted.rpartition(".")[2] == key]
    if len(elsewhere) == 1:
        return f"unknown key here; did you mean {elsewhere[0]!r}?"
    return f"unknown key; known here: {', '.join(known)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` or an empty text."""
    near = nearest(word, known)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return the known word that is most like another one; none where none is like it."""
    return difflib.get_close_matches(word, list(known), n=1)


def section_at(model: type[Section], where: KeyPath) -> type[Section] | None:
    """Return the section type at a location, None if there is none."""
    section: type[Section] | None = model
    for step in where:
        if section is None or isinstance(step, int):
            continue
        field = section.model_fields.get(step)
        section = section_in(field.annotation) if field else None
    return section


def keys_at(model: type[Section], where: KeyPath) -> list[str]:
    """Return the keys of the section at a location."""
    section = section_at(model, where)
    return list(section.model_fields) if section else []


def dotted_keys(model: type[Section], prefix: str = "", *, items: bool = False) -> list[str]:
    """Return every dotted key, sections before their keys.

    Args:
        items: also the keys of lists' items, such as ``pretrain.phases.from_tokens``.
    """
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        section = section_in(field.annotation)
        if section and (items or item_type(field.annotation) is None):
            keys += dotted_keys(section, f"{prefix}{name}.", items=items)
    return keys
