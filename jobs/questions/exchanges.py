"""Read prompts with the answers that a model is to learn. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.questions.records import (
    errors_of,
    json_lines,
    refuse,
    require_characters,
    text_field,
)

KIND = "prompts"


@dataclass(frozen=True)
class Exchange:
    """A prompt and its answer, both used as they are."""

    id: str
    prompt: str
    gold: str
    system: str
    """Empty without a system's turn."""


def read_exchanges(path: Path) -> Iterator[Exchange]:
    """Read ``{"prompt", "gold", "system"?, "id"?}`` lines.

    Raises:
        TaskError: the file is missing or unreadable, or a line breaks the layout.
    """
    with errors_of(path):
        yield from _lines(path)


def _lines(path: Path) -> Iterator[Exchange]:
    for number, (where, record) in enumerate(json_lines(path)):
        texts = [record.get(key, "") for key in ("prompt", "gold", "system")]
        for key, text in zip(("prompt", "gold"), texts, strict=False):
            if not isinstance(text, str) or not text.strip():
                refuse(where, f"`{key}` is missing, empty or not a string")
        if not isinstance(texts[2], str):
            refuse(where, "`system` is not a string")
        name = text_field(where, record, "id") if "id" in record else f"{path.stem}-{number}"
        require_characters(path, name, texts)
        yield Exchange(name, *texts)
