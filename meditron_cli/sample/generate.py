"""Write the sample: corpus, benchmark and tokenizer, the same bytes for the same seed. Standard library only."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from . import benchmark, corpus, facts

SEED = 7


def write(folder: Path, seed: int = SEED) -> None:
    """Write ``corpus/*.jsonl``, ``benchmark/questions.jsonl`` and ``tokenizer.json`` below a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    relations = facts.load()
    by_source: dict[str, list[corpus.Record]] = {}
    for record in corpus.documents(relations, seed):
        by_source.setdefault(record["source"], []).append(record)
    for source, records in by_source.items():
        _write_lines(folder / "corpus" / f"{source}.jsonl", records)
    _write_lines(folder / "benchmark" / "questions.jsonl", benchmark.questions(relations, seed))
    with resources.as_file(resources.files(__package__) / "tokenizer.json") as tokenizer:
        shutil.copyfile(tokenizer, folder / "tokenizer.json")


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
