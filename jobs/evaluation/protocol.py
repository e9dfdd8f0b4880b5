"""The questions of an evaluation to a model, on token ids: likelihoods of given options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

Tokens = Sequence[int]


class Likelihood(NamedTuple):
    """The log-likelihood of an option after a prompt."""

    value: float
    """In nats, summed over the option's tokens."""
    greedy: bool
    """Each of its tokens is the most likely one."""


class Scorer(Protocol):
    """Scores options by their likelihood."""

    def score(
        self, prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]]
    ) -> list[list[Likelihood]]:
        """Return the likelihood of each option of each prompt.

        Options of one token cost one pass over their prompt. A prompt that is too long with
        its longest option loses its beginning, for all of its options alike.

        Raises:
            TaskError: an option has no token, or more than the model reads.
        """
        ...
