"""Write the sample: corpus, benchmark and tokenizer, fixed by the seed.

Needs no third-party library, so that it runs on a login node.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jobs.contract.files import write_bytes
from meditron_cli.sample import benchmark, corpus, facts

SEED = 7
"""The seed of the sample whose text the shipped tokenizer was trained on."""


def write(folder: Path, seed: int = SEED) -> None:
    """Write ``corpus/*.jsonl``, ``benchmark/questions.jsonl``, ``benchmark/train.jsonl`` and
    ``tokenizer.json`` in a folder.

    Each file is written whole or not at all; what stood under its name before is replaced.

    Raises:
        OSError: the folder cannot be written to.
    """
    relations = facts.load()
    for source, records in _by_source(corpus.documents(relations, seed)).items():
        write_bytes(folder / "corpus" / f"{source}.jsonl", _lines(records))
    questions = benchmark.questions(relations, seed)
    write_bytes(folder / "benchmark" / "questions.jsonl", _lines(questions))
    learnt = benchmark.train_questions(relations, seed)
    write_bytes(folder / "benchmark" / "train.jsonl", _lines(learnt))
    tokenizer = resources.files(__package__) / "tokenizer.json"
    write_bytes(folder / "tokenizer.json", tokenizer.read_bytes())


def _by_source(records: Iterable[corpus.Record]) -> dict[str, list[corpus.Record]]:
    groups: dict[str, list[corpus.Record]] = {}
    for record in records:
        groups.setdefault(record["source"], []).append(record)
    return groups


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
