"""The items of a published training set: which files each part takes, and which of PQA-A."""

from __future__ import annotations

import random
from collections.abc import Sequence

from jobs.contract import preparations
from jobs.contract.corpus.rules import BenchmarkFile
from jobs.contract.errors import TaskError
from jobs.contract.preparations import PARTS, PQA_A_TRAIN, Part, wrong_kinds


def assigned(
    preparation: str, files: Sequence[BenchmarkFile], reasoned: bool = False
) -> list[tuple[Part, tuple[BenchmarkFile, ...]]]:
    """Return the parts of a preparation with their files; of one that is not published, each file
    is a part of its own, of whose questions the answers are ``reasoned`` or not.

    Raises:
        TaskError: a part lacks a file, or a file fits no part.
    """
    for place, problem in wrong_kinds(preparation, [file.kind for file in files]):
        where = "" if place is None else f"{files[place].path}: "
        raise TaskError(f"{where}{problem}", "correct `data` of the model in finetune.models")
    if preparation not in PARTS:
        return [(Part(file.kind, 0, reasoned, explained=reasoned), (file,)) for file in files]
    found = [
        (part, tuple(file for file in files if file.kind == part.kind))
        for part in PARTS[preparation]
    ]
    return [(part, own) for part, own in found if own]


def omitted(preparation: str, files: Sequence[BenchmarkFile]) -> list[str]:
    """Return a sentence on each part that a preparation may do without, and does."""
    kinds = {file.kind for file in files}
    return [
        f"{preparation}: without a file of kind {part.kind}, whose published items are not public"
        for part in PARTS.get(preparation, ())
        if part.optional and part.kind not in kinds
    ]


def difference(preparation: str, items: int, expected: int) -> str:
    """Return a sentence on a number of items that is not the expected one; empty where it is."""
    if not expected or items == expected:
        return ""
    whose = "published" if expected == preparations.ITEMS.get(preparation) else "expected"
    return f"{preparation}: {items:,} items, {abs(items - expected):,} " + (
        f"{'fewer' if items < expected else 'more'} than the {expected:,} {whose}"
    )


def train_places(total: int) -> frozenset[int] | None:
    """Return the places of the items that PQA-A's authors train on; None for all.

    They shuffle all 211,269 with seed 0 (pubmedqa/pubmedqa:preprocess/split_dataset.py).
    """
    if total <= PQA_A_TRAIN:
        return None
    places = list(range(total))
    random.Random(0).shuffle(places)
    return frozenset(places[:PQA_A_TRAIN])
