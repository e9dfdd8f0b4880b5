"""Convert dataclasses to JSON objects and back, with types checked. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from jobs.contract.outcomes import RetryAction, RootCause

T = TypeVar("T")
Convert = Callable[[Any], Any]


def from_fields(kind: type[T], value: Mapping[str, Any]) -> T:
    """Build a dataclass from a JSON object; keys that the class does not have are ignored.

    Raises:
        ValueError: a field is missing, or has another type.
    """
    values: dict[str, Any] = {}
    for name, key, convert, is_required in _fields(kind):
        if key in value:
            values[name] = convert(value[key])
        elif is_required:
            raise ValueError(f"{kind.__name__} without {key!r}")
    return kind(**values)


def to_fields(value: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object."""
    return {key: _plain(getattr(value, name)) for name, key, _, _ in _fields(type(value))}


class Field(NamedTuple):
    """A field of a dataclass that is stored as JSON."""

    name: str
    key: str
    """In the JSON object: the name, unless the field's metadata has another ``key``."""
    convert: Convert
    is_required: bool


_known: dict[type[Any], tuple[Field, ...]] = {}


def _fields(kind: type[Any]) -> tuple[Field, ...]:
    """Return the stored fields of a dataclass: those whose metadata has no ``key`` of None."""
    if kind not in _known:
        _known[kind] = tuple(
            Field(
                item.name,
                item.metadata.get("key", item.name),
                CONVERTERS[str(item.type)],
                item.default is dataclasses.MISSING,
            )
            for item in dataclasses.fields(kind)
            if item.metadata.get("key", item.name) is not None
        )
    return _known[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, (RootCause, RetryAction)) else value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{value!r} is no integer")
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _several(kind: type[Any]) -> Convert:
    def convert_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not {kind}.issuperset(map(type, value)):
            raise ValueError(f"{value!r} is no list of {kind.__name__}")
        return tuple(value)

    return convert_all


CONVERTERS: dict[str, Convert] = {
    "str": _text,
    "int": _integer,
    "float": _number,
    "int | None": _optional(_integer),
    "float | None": _optional(_number),
    "tuple[str, ...]": _several(str),
    "tuple[int, ...]": _several(int),
    "RootCause": RootCause,
    "RetryAction": RetryAction,
}
"""By annotation, as the source has it."""
