"""Specs of corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.contract.corpus.rules import CorpusRules, SourceSpec
from jobs.contract.stage_specs import CurateSpec


def source_spec(path: Path | str, **fields: Any) -> SourceSpec:
    """Return a source of which every document is kept that has a character."""
    values: dict[str, Any] = {
        "name": Path(path).name.partition(".")[0],
        "format": "auto",
        "text_key": "text",
        "id_key": "id",
        "licence": "",
        "languages": (),
        "quality": "none",
        "min_chars": 1,
        "sample": 1.0,
        "validation_fraction": 0.0,
    }
    return SourceSpec(**{"path": str(path), **values, **fields})


def corpus_rules(*paths: Path | str, **fields: Any) -> CorpusRules:
    """Return the rules of a corpus of one shard; fields of sources are those of all."""
    common = {name: fields.pop(name) for name in SourceSpec.__dataclass_fields__ if name in fields}
    sources = tuple(source_spec(path, **common) for path in paths or ("/docs",))
    values: dict[str, Any] = {"on_bad_record": "fail", "shards": 1, "seed": 1234}
    return CorpusRules(**{"sources": sources, **values, **fields})


def curate_spec(*paths: Path | str, **fields: Any) -> CurateSpec:
    """Return the task that makes such a corpus alone."""
    return CurateSpec(corpus_rules(*paths, **fields), 0, 1, True, "corpus")
