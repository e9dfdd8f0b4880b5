"""The base of the configuration's models: a frozen, strict section."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Conflicts(ValueError):
    """Conflicting values of one section, each with the key to change."""

    def __init__(self, conflicts: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {message}" for key, message in conflicts))
        self.conflicts = conflicts


class Section(BaseModel):
    """A mapping of the YAML: frozen, without unknown keys and type coercion."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts between values of the section: pairs of a key and a sentence.

        The key is dotted, within this section.
        """
        yield from ()

    @model_validator(mode="after")
    def values_fit_together(self) -> Section:
        """Report every conflict of the section at once.

        Raises:
            Conflicts: at least one.
        """
        if conflicts := list(self.conflicts()):
            raise Conflicts(conflicts)
        return self


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section type inside an annotation: itself, of a list's items or of an optional."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    inner = (section_in(part) for part in typing.get_args(annotation))
    return next((section for section in inner if section is not None), None)


def item_type(annotation: Any) -> Any:
    """Return the type of a list's items (``Path`` of ``tuple[Path, ...]``); None otherwise."""
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return next(filter(None, map(item_type, typing.get_args(annotation))), None)
    return None
