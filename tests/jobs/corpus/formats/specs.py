"""Settings of a source, for tests of its readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.contract.corpus.rules import SourceSpec
from jobs.corpus.document import Document
from jobs.corpus.formats.read import Record, read

DEFAULTS: dict[str, Any] = {
    "name": "s",
    "text_key": "text",
    "id_key": "id",
    "licence": "",
    "languages": (),
    "quality": "none",
    "min_chars": 0,
    "sample": 1.0,
    "validation_fraction": 0.0,
}


def spec(path: Path = Path("a.jsonl"), form: str = "auto", **changes: Any) -> SourceSpec:
    return SourceSpec(path=str(path), format=form, **(DEFAULTS | changes))


def records(path: Path, form: str = "auto", **changes: Any) -> list[Record]:
    return list(read(path, spec(path, form, **changes)))


def documents(path: Path, form: str = "auto", **changes: Any) -> list[Document]:
    items = [record.item for record in records(path, form, **changes)]
    assert all(isinstance(item, Document) for item in items), items
    return [item for item in items if isinstance(item, Document)]
