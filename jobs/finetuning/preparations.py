"""The published training sets: which files each takes, and how many items of them.

Sizes are those of epfLLM/meditron:finetuning/sft.py:19-29. The sources give three mixtures by their
sums alone: 159,669 + 10,178 + 200,000 = 369,847 (``mixedmed``), 159,669 + 200,000 = 359,669
(``cotmixedmed``, hence without MedQA), and 182,822 + 10,178 + 450 = 193,450 (``mixed``, hence with
the labelled items of PubMedQA that the released loader read). Nothing states these summands.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jobs.contract import preparations
from jobs.contract.corpus.rules import BenchmarkFile
from jobs.contract.errors import TaskError

PQA_A_TRAIN = 200_000
"""Items of PQA-A that its authors train on; the other 11,269 are their development split."""


@dataclass(frozen=True)
class Part:
    """The items of files of one kind."""

    kind: str
    published: int
    """Items; 0 where no number is published."""
    reasoned: bool = False
    """The answer is its explanation, then the choice."""
    explained: bool = False
    """Items without an explanation are left out."""
    optional: bool = False
    """May lack a file."""


MEDQA = Part("medqa", 10_178)
MEDMCQA = Part("medmcqa", 159_669, explained=True)
PUBMEDQA = Part("pubmedqa", PQA_A_TRAIN)
COT_MEDQA = Part("medqa", 8_204, reasoned=True, explained=True)
COT_MEDMCQA = Part("medmcqa", 159_669, reasoned=True, explained=True)
COT_PUBMEDQA = Part("pubmedqa", PQA_A_TRAIN, reasoned=True, explained=True)
PARTS: dict[str, tuple[Part, ...]] = {
    "medqa": (MEDQA,),
    "medmcqa": (MEDMCQA,),
    "pubmedqa": (PUBMEDQA,),
    "cotmedqa": (COT_MEDQA,),
    "cotmedmcqa": (COT_MEDMCQA,),
    "cotpubmedqa": (COT_PUBMEDQA,),
    "mixed": (Part("medmcqa", 182_822), MEDQA, Part("pubmedqa", 450)),
    "mixedmed": (MEDMCQA, MEDQA, PUBMEDQA),
    "cotmixedmed": (COT_MEDMCQA, COT_PUBMEDQA, Part("medqa", 0, True, True, optional=True)),
}
"""Of the published count of ``cotmedmcqa``, 182,822, the items without explanation have no target
and are left out, as the paper does; 359,669 of ``cotmixedmed`` counts them out too."""


def assigned(
    preparation: str, files: Sequence[BenchmarkFile]
) -> list[tuple[Part, tuple[BenchmarkFile, ...]]]:
    """Return the parts of a preparation with their files; of one that is not published, each file
    is a part of its own.

    Raises:
        TaskError: a part lacks a file, or a file fits no part.
    """
    parts = PARTS.get(preparation)
    if parts is None:
        return [(Part(file.kind, 0), (file,)) for file in files]
    kinds = [part.kind for part in parts]
    for file in files:
        if file.kind not in kinds:
            raise TaskError(
                f"{file.path}: {preparation} takes no file of kind {file.kind}",
                f"its kinds are {', '.join(kinds)}; a preparation of another name takes every file",
            )
    found = [(part, tuple(file for file in files if file.kind == part.kind)) for part in parts]
    for part, own in found:
        if not own and not part.optional:
            raise TaskError(
                f"{preparation} needs a file of kind {part.kind}", "name it in `data` of the model"
            )
    return [(part, own) for part, own in found if own]


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


def published(parts: Iterable[Part]) -> int:
    """Return the items of some parts."""
    return sum(part.published for part in parts)
