"""The adapter that makes our model a model of lm-evaluation-harness.

The harness requests log-likelihoods of continuations. All choices of a question have the same
context, so a request whose tokens are a prefix of another's costs nothing: the model is causal, and
the longer row contains its scores. Yes, no and maybe after an abstract are one row.

With tensor parallelism every rank receives the same requests, makes the same batches and returns
the same scores; to the harness each rank is rank 0 of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM

from jobs.contract.errors import TaskError
from jobs.contract.units import plural
from jobs.data.tokenizer_file import Encoder

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Place = tuple[int, int]
"""Row and column of a position in a batch."""

Logits = Callable[[torch.Tensor, Sequence[Place]], torch.Tensor]
"""int64 tokens ``[batch, sequence]``, and positions → float32 scores of the next token there
``[positions, vocabulary]``.
"""


@dataclass(frozen=True)
class Scoring:
    """One request in tokens: the model's input and the tokens that are scored."""

    read: tuple[int, ...]
    """Context and continuation without its last token, truncated on the left to fit the model."""
    scored: tuple[int, ...]
    """The continuation."""

    def places(self, row: int) -> list[Place]:
        """Return the positions that predict its tokens, where its row is that one of a batch."""
        return [(row, column) for column in range(len(self.read))[-len(self.scored) :]]


class MegatronLM(TemplateLM):  # type: ignore[misc]
    """A language model given as a function from tokens to scores.

    Args:
        logits: all ranks of a tensor-parallel group call it with the same tokens, on the CPU, and
            the same positions, which are those that predict a scored token.
        max_length: the model's context length in tokens.
        batch_size: most rows per call of ``logits``.
        after_batch: called with the requests done and the total; may raise to stop.
    """

    def __init__(
        self,
        logits: Logits,
        encoder: Encoder,
        *,
        max_length: int,
        batch_size: int,
        after_batch: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self._logits = logits
        self._encoder = encoder
        # The harness encodes a question's context again for each of its choices.
        self._encode = lru_cache(maxsize=16)(encoder.encode)
        self.max_length = max_length
        self.batch_size = batch_size
        self._after_batch = after_batch
        self.truncated = 0
        """Contexts of the last call that were truncated to fit."""

    @property
    def eot_token_id(self) -> int:
        return self._encoder.eod

    @property
    def prefix_token_id(self) -> int:
        return self._encoder.prefix

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Return the token ids of a text, after BOS where documents of the training began so; the
        harness sets ``add_special_tokens`` to False for a continuation.
        """
        del unused
        bos = self._encoder.bos
        start = [] if bos is None or add_special_tokens is False else [bos]
        return [*start, *self._encode(string)]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return log-likelihoods as the harness defines them, without a progress bar in the log."""
        scores: list[tuple[float, bool]]
        scores = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return scores

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
    ) -> list[tuple[float, bool]]:
        """Return per continuation its log-likelihood in nats and whether it is the greedy one.

        Raises:
            TaskError: a continuation has no token, or more than the model's context.
        """
        del disable_tqdm
        for texts, _, answer in requests:
            self._refuse_odd_length(texts[1], answer)
        items = fit([pair for _, *pair in requests], self._encoder.eod, self.max_length)
        truncated = (
            tuple(context)
            for item, (_, context, answer) in zip(items, requests, strict=True)
            if len(item.read) + 1 < len(context) + len(answer)
        )
        self.truncated = len(set(truncated))
        scored: dict[int, tuple[float, bool]] = {}
        for batch in batches(items, self.batch_size):
            rows = [items[members[0]].read for members in batch]
            indices = [index for members in batch for index in members]
            placed = [
                (items[index].places(row), items[index].scored)
                for row, members in enumerate(batch)
                for index in members
            ]
            needed = list(dict.fromkeys(place for places, _ in placed for place in places))
            scores = self._logits(pad(rows, self._encoder.eod), needed)
            scored.update(zip(indices, pick(scores, needed, placed), strict=True))
            self._after_batch(len(scored), len(items))
        return [scored[index] for index in range(len(items))]

    def _refuse_odd_length(self, text: str, answer: list[int]) -> None:
        if not 1 <= len(answer) <= self.max_length:
            raise TaskError(
                f"the choice {text.strip()[:60]!r} has {plural(len(answer), 'token')}, "
                f"the model reads 1 to {self.max_length}",
                "remove the question, or evaluate a model with a longer context",
            )

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Refuse to score whole texts; the harness requires the method.

        Raises:
            TaskError: always.
        """
        raise _unsupported("loglikelihood_rolling")

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Refuse to generate text; the harness requires the method.

        Raises:
            TaskError: always.
        """
        raise _unsupported("generate_until")


def _unsupported(kind: str) -> TaskError:
    return TaskError(
        f"the benchmark requests {kind}, this model answers multiple-choice questions only",
        "use a benchmark with choices",
    )


def fit(pairs: Sequence[Sequence[list[int]]], eod: int, max_length: int) -> list[Scoring]:
    """Truncate pairs of context and continuation, in tokens, on the left to fit the model.

    All continuations of one context keep the same part of it, the part that fits with the longest:
    the choices of a question are compared on equal terms.
    """
    longest: dict[tuple[int, ...], int] = {}
    for context, answer in pairs:
        longest[tuple(context)] = max(longest.get(tuple(context), 0), len(answer))
    return [
        Scoring(
            read=(*(context or [eod])[-(max_length + 1 - longest[tuple(context)]) :], *answer[:-1]),
            scored=tuple(answer),
        )
        for context, answer in pairs
    ]


def batches(items: Sequence[Scoring], size: int) -> Iterator[list[list[int]]]:
    """Yield the rows to run, ``size`` at a time, longest first: lack of memory shows at once.

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
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def pad(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """Return int64 ``[rows, longest]``, padded on the right, which a causal model does not see."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def pick(
    scores: torch.Tensor,
    places: Sequence[Place],
    items: Sequence[tuple[Sequence[Place], Sequence[int]]],
) -> list[tuple[float, bool]]:
    """Return per continuation of a batch its log-likelihood in nats and whether it is greedy.

    Args:
        scores: ``[positions, vocabulary]``, unnormalised.
        places: of ``scores``, in its order.
        items: the positions of each continuation, and the token to score at each of them.
    """
    lines = {place: line for line, place in enumerate(places)}
    at = [lines[place] for own, _ in items for place in own]
    targets = torch.tensor([token for _, tokens in items for token in tokens], device=scores.device)
    likelihoods = scores.log_softmax(-1)[at, targets]
    greedy = scores.argmax(-1)[at] == targets
    tokens = zip(likelihoods.tolist(), greedy.tolist(), strict=True)
    parts = (list(islice(tokens, len(own))) for own, _ in items)
    return [(math.fsum(value for value, _ in part), all(hit for _, hit in part)) for part in parts]
