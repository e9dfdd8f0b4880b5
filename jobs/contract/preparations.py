"""The published training sets of finetuned models, and the steps over them. Standard library
only.

Three mixtures are known by their sums alone: 159,669 + 10,178 + 200,000 = 369,847 (``mixedmed``),
159,669 + 200,000 = 359,669 (``cotmixedmed``, hence without MedQA), and 182,822 + 10,178 + 450 =
193,450 (``mixed``, hence with the labelled items of PubMedQA that the released loader reads).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.contract.units import plural

ITEMS = {
    "medqa": 10_178,
    "medmcqa": 159_669,
    "pubmedqa": 200_000,
    "cotmedqa": 8_204,
    "cotmedmcqa": 182_822,
    "cotpubmedqa": 200_000,
    "mixed": 193_450,
    "mixedmed": 369_847,
    "cotmixedmed": 359_669,
}
"""Training items by the name of the preparation (epfLLM/meditron:finetuning/sft.py:19-29)."""

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


def wrong_kinds(preparation: str, kinds: Sequence[str]) -> Iterator[tuple[int | None, str]]:
    """Yield the place of each file of a kind that a preparation does not take, with a sentence, and
    a sentence on each kind that it lacks. A preparation that is not published takes every file.
    """
    parts = PARTS.get(preparation, ())
    known = [part.kind for part in parts]
    for place, kind in enumerate(kinds if parts else ()):
        if kind not in known:
            yield (
                place,
                (
                    f"{preparation} takes no file of kind {kind}, but of {', '.join(known)}; "
                    "a preparation of another name takes every file"
                ),
            )
    for part in parts:
        if part.kind not in kinds and not part.optional:
            yield None, f"{preparation} needs a file of kind {part.kind}"


def train_steps(items: int, epochs: float, batch: int) -> int:
    """Return the steps of a finetuning: as many as its epochs have, rounded up to a multiple of ten
    (epfLLM/meditron:finetuning/sft.py:147-148).
    """
    return 10 * math.ceil(epochs * items / batch / 10)


def left_out(counts: Mapping[str, Any]) -> list[str]:
    """Return a phrase per kind of items that a preparation left out or cut, from its summary."""
    phrases = {
        "contained": "left out as test questions",
        "too_long": "left out, since question and answer alone are longer than a row",
        "truncated": "without the beginning of the context, to fit into a row",
    }
    return [
        f"{plural(counts[key], 'item')} {text}" for key, text in phrases.items() if counts.get(key)
    ]
