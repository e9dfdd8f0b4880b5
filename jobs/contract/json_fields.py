"""Convert dataclasses to JSON objects and back, with types checked. Standard library only."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from jobs.contract.outcomes import RetryAction, RootCause

LATEST = 253402214400.0
"""The last day of the year 9999, which ``datetime`` has in every time zone."""
LARGEST = 1 << 64
"""No count is larger; one of thousands of bits would not even become a float."""

T = TypeVar("T")
Convert = Callable[[Any], Any]


def from_fields(kind: type[T], value: Mapping[str, Any]) -> T:
    """Build a dataclass from a JSON object; keys that the class does not have are ignored.

    Raises:
        ValueError: a field is missing, or has another type.
    """
    fields, defaults, sets_only_fields = _fields(kind)
    values = dict(defaults)
    for name, key, convert in fields:
        if key in value:
            values[name] = convert(value[key])
        elif name not in defaults:
            raise ValueError(f"{kind.__name__} without {key!r}")
    if not sets_only_fields:
        return kind(**values)
    # __init__ of a frozen dataclass sets one field after the other, which takes as long as all
    # conversions; a log has thousands of events.
    instance = object.__new__(kind)
    instance.__dict__.update(values)
    return instance


def to_fields(value: Any) -> dict[str, Any]:
    """Return a dataclass as a JSON object."""
    fields, _, _ = _fields(type(value))
    return {key: _plain(getattr(value, name)) for name, key, _ in fields}


Field = tuple[str, str, Convert]
"""A field that is stored as JSON: its name, its key in the JSON object, its conversion. The key is
the name, unless the field's metadata has another ``key``.
"""

_known: dict[type[Any], tuple[tuple[Field, ...], dict[str, Any], bool]] = {}


def _fields(kind: type[Any]) -> tuple[tuple[Field, ...], dict[str, Any], bool]:
    """Return the stored fields of a dataclass, those whose metadata has no ``key`` of None; the
    defaults of all its fields; and whether its ``__init__`` sets attributes and does nothing else.
    """
    if kind not in _known:
        items = [(item, item.metadata.get("key", item.name)) for item in dataclasses.fields(kind)]
        _known[kind] = (
            tuple((item.name, key, CONVERTERS[str(item.type)]) for item, key in items if key),
            {
                item.name: item.default
                for item, _ in items
                if item.default is not dataclasses.MISSING
            },
            not hasattr(kind, "__slots__") and not hasattr(kind, "__post_init__"),
        )
    return _known[kind]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return value.value if isinstance(value, (RootCause, RetryAction)) else value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not a string")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > LARGEST:
        raise ValueError(f"{repr(value)[:40]} is not an integer")
    return value


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _number(value: Any) -> float:
    try:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond the range of floats
        pass
    raise ValueError(f"{repr(value)[:40]} is not a number")


def moment(value: Any) -> float:
    """Return a time as seconds since 1970.

    Raises:
        ValueError: it is none, or one that no calendar has.
    """
    found = _number(value)
    if not 0 <= found < LATEST:
        raise ValueError(f"{found} is not a time")
    return found


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{value!r} is not an object")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"{value!r} is not a list")
    return value


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _several(kind: type[Any]) -> Convert:
    are_of_kind = {kind}.issuperset

    def convert_all(value: Any) -> tuple[Any, ...]:
        if type(value) is not list or not are_of_kind(map(type, value)):
            raise ValueError(f"{value!r} is not a list of {kind.__name__}")
        return tuple(value)

    return convert_all


CONVERTERS: dict[str, Convert] = {
    "str": _text,
    "int": _integer,
    "bool": _boolean,
    "float": _number,
    "int | None": _optional(_integer),
    "float | None": _optional(_number),
    "Moment": moment,
    "Moment | None": _optional(moment),
    "str | None": _optional(_text),
    "dict[str, Any]": _object,
    "dict[str, Any] | None": _optional(_object),
    "tuple[str, ...]": _several(str),
    "tuple[int, ...]": _several(int),
    "tuple[float, ...]": lambda value: tuple(map(_number, _list(value))),
    "tuple[float, ...] | None": _optional(lambda value: tuple(map(_number, _list(value)))),
    "tuple[tuple[int, ...], ...]": lambda value: tuple(map(_several(int), _list(value))),
    "tuple[dict[str, Any], ...]": _several(dict),
    "RootCause": RootCause,
    "RetryAction": RetryAction,
}
"""By annotation, as the source has it."""
