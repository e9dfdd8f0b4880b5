"""Likelihoods of options from logits of our own model: the only positions whose logits are computed
are those that predict a token of an option.

All options of a prompt share its tokens, so an option whose tokens but the last begin another's
costs nothing: the model is causal, and the longer row contains its scores. Yes, no and maybe after
an abstract, or letters, are one row; options of several tokens that differ are a row each.

``batches`` puts all items of a score into batches before any is computed, and tasks share whole
batches: sums of floating-point numbers depend on what is computed together, so that equal batches
are what makes likelihoods equal to the last bit for any number of tasks.

With tensor parallelism every rank makes the same batches and returns the same scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from jobs.contract.errors import TaskError
from jobs.contract.units import plural
from jobs.evaluation.protocol import Likelihood, Tokens

if TYPE_CHECKING:
    import torch

Place = tuple[int, int]
"""Row and column of a position in a batch."""

Logits = Callable[["torch.Tensor", Sequence[Place]], "torch.Tensor"]
"""int64 tokens ``[batch, sequence]``, and positions → float32 scores of the next token there
``[positions, vocabulary]``.
"""


@dataclass(frozen=True)
class Scoring:
    """One option in tokens: the model's input and the tokens that are scored."""

    read: tuple[int, ...]
    """Prompt and option without its last token, truncated on the left to fit the model."""
    scored: tuple[int, ...]
    """The option."""

    def places(self, row: int) -> list[Place]:
        """Return the positions that predict its tokens, where its row is that one of a batch."""
        return [(row, column) for column in range(len(self.read))[-len(self.scored) :]]


class MegatronScorer:
    """A model given as a function from tokens to logits.

    Args:
        logits: all ranks of a tensor-parallel group call it with the same tokens, on the CPU, and
            the same positions, which are those that predict a scored token.
        filler: a token id, for the end of shorter rows and before an empty prompt.
        max_length: the model's context length in tokens.
        batch_size: most rows per call of ``logits``.
    """

    def __init__(self, logits: Logits, filler: int, *, max_length: int, batch_size: int) -> None:
        self._logits = logits
        self._filler = filler
        self.max_length = max_length
        self.batch_size = batch_size

    def score(
        self, prompts: Sequence[Tokens], options: Sequence[Sequence[Tokens]]
    ) -> list[list[Likelihood]]:
        """Return likelihoods as ``jobs.evaluation.protocol.Scorer`` defines them."""
        items = [
            scoring
            for prompt, own in zip(prompts, options, strict=True)
            for scoring in fit(prompt or [self._filler], own, self.max_length)
        ]
        found: dict[int, Likelihood] = {}
        rows = rows_of(items)
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            indices = [index for members in batch for index in members]
            placed = [
                (items[index].places(row), items[index].scored)
                for row, members in enumerate(batch)
                for index in members
            ]
            needed = list(dict.fromkeys(place for places, _ in placed for place in places))
            tokens = pad([items[members[0]].read for members in batch], self._filler)
            scores = self._logits(tokens, needed)
            found.update(zip(indices, pick(scores, needed, placed), strict=True))
        values = iter(found[index] for index in range(len(items)))
        return [list(islice(values, len(own))) for own in options]


def fit(prompt: Tokens, options: Sequence[Tokens], max_length: int) -> list[Scoring]:
    """Truncate a prompt, in tokens, on the left so that the longest of its options fits behind it.

    All options keep the same part of it: they are compared on equal terms.

    Raises:
        TaskError: an option has no token, or more than the model reads.
    """
    for option in options:
        if not 1 <= len(option) <= max_length:
            raise TaskError(
                f"an option has {plural(len(option), 'token')}, the model reads 1 to {max_length}",
                "remove the question, or evaluate a model with a longer context",
            )
    room = max_length + 1 - max(map(len, options))
    return [Scoring((*prompt[-room:], *option[:-1]), tuple(option)) for option in options]


def is_truncated(prompt: Tokens, options: Sequence[Tokens], max_length: int) -> bool:
    """Return whether a prompt loses its beginning."""
    return len(prompt) + max(map(len, options)) > max_length + 1


def rows_of(items: Sequence[Scoring]) -> list[list[int]]:
    """Return the rows to run, longest first: lack of memory shows at once.

    A row is a list of indices into ``items``: first the one whose tokens are run, then those whose
    tokens are a prefix of it. Neighbours in sorted order share most, so they stay together.
    """
    rows: list[list[int]] = []
    for index in sorted(range(len(items)), key=lambda i: items[i].read, reverse=True):
        # An extension of a row sorts right behind it, so in reverse right before it.
        read = items[index].read
        if rows and items[rows[-1][0]].read[: len(read)] == read:
            rows[-1].append(index)
        else:
            rows.append([index])
    rows.sort(key=lambda members: -len(items[members[0]].read))
    return rows


def batches(
    prompts: Sequence[Tokens],
    options: Sequence[Sequence[Tokens]],
    *,
    max_length: int,
    batch_size: int,
) -> list[list[int]]:
    """Return batches of whole prompts, by their indices, longest first.

    The options of a prompt stay together: an answer is stored whole. A batch has at most
    ``batch_size`` rows, unless one prompt alone has more.
    """
    sizes = []
    for prompt, own in zip(prompts, options, strict=True):
        scorings = fit(prompt or [0], own, max_length)
        rows = rows_of(scorings)
        sizes.append((scorings[rows[0][0]].read, len(rows)))
    # Of equal length, what begins alike stands together.
    order = sorted(range(len(sizes)), key=lambda i: sizes[i][0], reverse=True)
    order.sort(key=lambda i: -len(sizes[i][0]))
    made: list[list[int]] = []
    room = 0
    for index in order:
        if sizes[index][1] > room:
            made.append([])
            room = batch_size
        made[-1].append(index)
        room -= sizes[index][1]
    return made


def pad(rows: Sequence[Tokens], filler: int) -> torch.Tensor:
    """Return int64 ``[rows, longest]``, padded on the right, which a causal model does not see."""
    import torch

    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def pick(
    scores: torch.Tensor,
    places: Sequence[Place],
    items: Sequence[tuple[Sequence[Place], Sequence[int]]],
) -> Iterator[Likelihood]:
    """Yield the likelihood of each option of a batch.

    Args:
        scores: ``[positions, vocabulary]``, unnormalised.
        places: of ``scores``, in its order.
        items: the positions of each option, and the token to score at each of them.
    """
    import torch

    lines = {place: line for line, place in enumerate(places)}
    at = [lines[place] for own, _ in items for place in own]
    targets = torch.tensor([token for _, tokens in items for token in tokens], device=scores.device)
    likelihoods = scores.log_softmax(-1)[at, targets]
    greedy = scores.argmax(-1)[at] == targets
    tokens = zip(likelihoods.tolist(), greedy.tolist(), strict=True)
    for own, _ in items:
        part = list(islice(tokens, len(own)))
        yield Likelihood(math.fsum(value for value, _ in part), all(hit for _, hit in part))
