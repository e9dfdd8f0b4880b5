"""Decode a tree into a model, strictly; note every error with its location and key."""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from meditron_cli.config.data_files import HUB_SCHEME
from meditron_cli.config.diagnostics import Location, Problem, Problems
from meditron_cli.config.error_messages import translate
from meditron_cli.config.field_types import (
    HUB_OR_PATH,
    WEIGHTS_PATH,
    Weights,
    is_placeholder,
)
from meditron_cli.config.files import shipped_profiles
from meditron_cli.config.section import Section, item_type, section_in
from meditron_cli.config.yaml_tree import (
    KeyPath,
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    key_text,
    location_at,
    to_plain,
)

SectionType = TypeVar("SectionType", bound=Section)


def decode(model: type[SectionType], root: Node, problems: Problems) -> SectionType | None:
    """Return the model that a tree describes; None, with every problem noted, if it is invalid."""
    return _validate(model, root, problems, partial=False)


def check_part(model: type[Section], root: Node, problems: Problems) -> None:
    """Note the problems of a tree that others complete.

    Keys may be missing, save in the items of a list, which no other tree completes.
    """
    _validate(model, root, problems, partial=True)


def _validate(
    model: type[SectionType], root: Node, problems: Problems, partial: bool
) -> SectionType | None:
    values = with_paths(root, model, (), problems)
    undecodable = list(not_utf8(values))
    for where, text in undecodable:
        advice = "rename the file or folder" if text.startswith("/") else "write UTF-8"
        message = f"{text!a} is not UTF-8; {advice}"
        problems.add(location_at(root, where), key_text(where), message)
    if undecodable:
        return None
    text = json.dumps(values)
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        translate(model, root, error.errors(include_url=False), problems, partial)
        return None


def not_utf8(value: Any, where: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the place and text of each string that UTF-8 cannot encode: Python decodes the bytes of
    a file name or an argument that are not UTF-8 to lone surrogates, which JSON does not have.
    """
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from not_utf8(key, where)
            yield from not_utf8(item, (*where, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from not_utf8(item, (*where, number))


def with_paths(node: Node, annotation: Any, where: KeyPath, problems: Problems) -> Any:
    """Return the plain data of a tree, with absolute paths."""
    if isinstance(node, ListNode):
        item = item_type(annotation)
        return [
            with_paths(inside, item, (*where, number), problems)
            for number, inside in enumerate(node.items)
        ]
    section = section_in(annotation)
    if isinstance(node, MapNode) and section:
        fields = section.model_fields
        return {
            key: with_paths(entry.node, kind_of(fields.get(key)), (*where, key), problems)
            for key, entry in node.entries.items()
        }
    if isinstance(node, ScalarNode) and is_path(annotation, node.value):
        return absolute(node, where, problems)
    return to_plain(node)


def kind_of(field: FieldInfo | None) -> Any:
    """Return the annotation of a field, or its mark where it holds a path or a name on the hub."""
    if field is None:
        return None
    return HUB_OR_PATH if HUB_OR_PATH in field.metadata else field.annotation


def is_path(annotation: Any, value: Any) -> bool:
    """Return whether the value of a field is a path, not a name on the hub in the place of one."""
    if not isinstance(value, str):
        return False
    kinds: tuple[Any, ...] = (annotation,)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = typing.get_args(annotation)
    if any(HUB_OR_PATH in (kind, *typing.get_args(kind)) for kind in kinds):
        return not value.startswith(HUB_SCHEME)
    return Path in kinds or (Weights in kinds and value.startswith(WEIGHTS_PATH))


def absolute(node: ScalarNode, where: KeyPath, problems: Problems) -> str:
    """Return an absolute path: ``~`` is the home, relative ones start at their file's folder."""
    if node.text.strip() == "":
        problems.add(node.location, key_text(where), "empty; write a path")
    if "$" in node.text:
        message = "variables are not replaced in paths; write the path out"
        problems.add(node.location, key_text(where), message)
    return os.path.normpath(node.location.source.folder / Path(node.text).expanduser())


def copy_advice(location: Location) -> str:
    """Return advice to copy a shipped profile before editing it; empty for other profiles."""
    if location.source.folder != shipped_profiles():
        return ""
    name = Path(location.source.label).stem
    return f" into the copy that `meditron clusters {name} --copy` makes"


def placeholder_problems(node: Node, where: KeyPath = ()) -> Iterator[Problem]:
    """Yield a problem for each placeholder that the user must replace."""
    if isinstance(node, MapNode):
        for key, entry in node.entries.items():
            yield from placeholder_problems(entry.node, (*where, key))
    elif isinstance(node, ListNode):
        for number, item in enumerate(node.items):
            yield from placeholder_problems(item, (*where, number))
    elif isinstance(node.value, str) and is_placeholder(node.value):
        message = f"{node.value} is a placeholder; write your own value{copy_advice(node.location)}"
        yield Problem(node.location, key_text(where), message)
