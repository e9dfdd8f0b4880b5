"""The protocol of text generation: token ids in, token ids and text out. Standard library only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

TRANSFORMERS, VLLM = "transformers", "vllm"

STOPPED, LENGTH = "stop", "length"
"""Reasons for the end of a generation: a stop string or token, or the limit of tokens."""

Alive = Callable[[], None]
"""Called whenever something was computed; may raise to stop."""


@dataclass(frozen=True)
class Sampling:
    """The choice of tokens, and the end of a generation."""

    samples: int = 1
    """Generations of each prompt."""
    temperature: float = 0.0
    """0 takes the most probable token; above 0 samples, without top-p or top-k."""
    max_tokens: int = 1024
    stops: tuple[str, ...] = ()
    """A generation ends with the first of these texts, which is cut off."""
    stop_tokens: tuple[int, ...] = ()
    """Ids that end a generation."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it was generated before."""


@dataclass(frozen=True)
class Generation:
    """One generated text."""

    tokens: tuple[int, ...]
    """As generated, the stop included."""
    text: str
    """Without special tokens, cut at the stop string."""
    finish: str
    """``stop`` or ``length``."""
    logprob: float
    """Of all tokens, summed, in nats, before penalty and temperature."""


class Backend(Protocol):
    """A model that generates text."""

    @property
    def flags(self) -> dict[str, Any]:
        """Return what identifies the program and its settings, for the record of a score."""

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Return ``sampling.samples`` generations per prompt.

        Args:
            prompts: token ids.
            sampling: the same for all of them.
            seeds: one per prompt (``seed_of``); used where the temperature is above 0.
        """


def seed_of(seed: int, item: str) -> int:
    """Return the seed of an item, which neither its batch nor its task decides. It has the 32 bits
    that torch reads on CPU, and leaves room for the numbers of 256 samples, which are added.
    """
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & ~0xFF


def cut(text: str, stops: Sequence[str]) -> str:
    """Return a text up to its first stop."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text
