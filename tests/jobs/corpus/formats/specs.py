"""Settings of a source, for tests of its readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.contract.corpus.rules import SourceSpec
from jobs.corpus.document import Document, Record
from jobs.corpus.formats.read import read

from ....corpus_specs import source_spec


def spec(path: Path = Path("a.jsonl"), form: str = "auto", **changes: Any) -> SourceSpec:
    return source_spec(path, format=form, **changes)


def records(path: Path, form: str = "auto", **changes: Any) -> list[Record]:
    return list(read(path, spec(path, form, **changes)))


def documents(path: Path, form: str = "auto", **changes: Any) -> list[Document]:
    items = [record.item for record in records(path, form, **changes)]
    assert all(isinstance(item, Document) for item in items), items
    return [item for item in items if isinstance(item, Document)]
