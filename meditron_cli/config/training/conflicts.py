"""Conflicts between settings that every training has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class TrainingSettings(Protocol):
    """The rates and batches of a training."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def min_learning_rate(self) -> float: ...
    @property
    def global_batch_size(self) -> int: ...
    @property
    def micro_batch_size(self) -> int: ...


def rates_and_batches(section: TrainingSettings) -> Iterator[tuple[str, str]]:
    """Yield the key and a sentence where rates are out of order, or micro-batches not whole."""
    if section.min_learning_rate > section.learning_rate:
        yield (
            "min_learning_rate",
            f"{section.min_learning_rate:g} is above learning_rate, {section.learning_rate:g}",
        )
    if section.global_batch_size % section.micro_batch_size:
        yield (
            "global_batch_size",
            f"{section.global_batch_size} is not a multiple of micro_batch_size, "
            f"{section.micro_batch_size}",
        )
