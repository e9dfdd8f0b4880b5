"""The published training sets of finetuned models, and the steps over them. Standard library
only.
"""

from __future__ import annotations

import math

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


def train_steps(items: int, epochs: float, batch: int) -> int:
    """Return the steps of a finetuning: as many as its epochs have, rounded up to a multiple of ten
    (epfLLM/meditron:finetuning/sft.py:147-148).
    """
    return 10 * math.ceil(epochs * items / batch / 10)
