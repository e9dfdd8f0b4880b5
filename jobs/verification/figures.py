"""Figures of a verification: differences of scores, and rates of generated texts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

GRAM = 4
"""Tokens of a repeated sequence, the length at which Welleck et al. (arXiv 1908.04319) measure
degenerate text."""


@dataclass(frozen=True)
class Difference:
    """The difference of two models' scores, over positions and vocabulary."""

    positions: int
    mean: float
    """Mean absolute difference of logits."""
    max: float
    agreement: float
    """Share of positions at which both score the same token highest."""
    scale: float
    """Largest magnitude of a logit."""

    @classmethod
    def between(cls, one: torch.Tensor, other: torch.Tensor) -> Difference:
        """Compare scores ``[positions, vocabulary]`` of one text.

        A score that is not finite on either side makes ``mean`` and ``max`` NaN.
        """
        gap = (one.double() - other.double()).abs()
        same = one.argmax(-1) == other.argmax(-1)
        return cls(
            positions=len(one),
            mean=float(gap.mean()),
            max=float(gap.max()),
            agreement=float(same.double().mean()),
            scale=float(one.abs().max()),
        )

    @classmethod
    def over_all(cls, parts: Sequence[Difference]) -> Difference:
        """Return the difference over the positions of several texts."""
        positions = sum(part.positions for part in parts)

        def weighted(name: str) -> float:
            return sum(part.positions * float(getattr(part, name)) for part in parts) / positions

        largest = max((part.max for part in parts), key=lambda value: (value != value, value))
        scale = max(part.scale for part in parts)
        return cls(positions, weighted("mean"), largest, weighted("agreement"), scale)

    def exceeds(self, tolerance: float) -> bool:
        """Return whether a logit differs by more than ``tolerance`` times the largest logit, at
        least 1, since rounding errors grow with the values; a NaN does.
        """
        return not self.max <= tolerance * max(1.0, self.scale)


@dataclass(frozen=True)
class Rates:
    """Properties of continuations, as shares between 0 and 1."""

    repetition: float
    """Of the 4-grams of the continuations, those that the continuation has had before."""
    prompt_echo: float
    """Of the same, those that the prompt has."""
    early_eos: float
    """Of the prompts, those whose continuation ends before the requested length."""

    @classmethod
    def of(
        cls, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], length: int
    ) -> Rates:
        """Measure continuations, without their EOS, of at most ``length`` tokens each."""
        grams = [_grams(tokens) for tokens in continuations]
        total = sum(len(found) for found in grams)
        repeated = sum(len(found) - len(set(found)) for found in grams)
        echoed = sum(
            len([gram for gram in found if gram in set(_grams(prompt))])
            for found, prompt in zip(grams, prompts, strict=True)
        )
        early = sum(len(tokens) < length for tokens in continuations)
        return cls(
            repetition=repeated / total if total else 0.0,
            prompt_echo=echoed / total if total else 0.0,
            early_eos=early / len(continuations),
        )


def _grams(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
