"""Our model as a model of lm-evaluation-harness.

The harness asks for log-likelihoods of continuations. Every choice of a question has the same
context, so a request whose tokens are the beginning of another's costs nothing: the model is
causal, and the longer row has the answer too. Yes, no and maybe after an abstract are one row.

With tensor parallelism every rank is given the same requests, makes the same batches and gets the
same answer; to the harness each rank is alone (rank 0 of 1).
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
from jobs.data.tokenizer_file import Encoder

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Logits = Callable[[torch.Tensor], torch.Tensor]
"""int64 tokens ``[batch, sequence]`` → float32 scores ``[batch, sequence, vocabulary]``."""


@dataclass(frozen=True)
class Scoring:
    """One request in tokens: what the model reads, and what it is scored on."""

    read: tuple[int, ...]
    """Context and continuation without its last token, cut on the left to what the model reads."""
    scored: tuple[int, ...]
    """The continuation; token ``i`` of it is predicted at position ``first + i``."""

    @property
    def first(self) -> int:
        return len(self.read) - len(self.scored)


class MegatronLM(TemplateLM):  # type: ignore[misc]
    """A language model given as a function from tokens to scores.

    Args:
        logits: all ranks of a tensor-parallel group call it with the same tokens, on the CPU.
        max_length: tokens the model can read at once.
        batch_size: most rows of one call of ``logits``.
        after_batch: called with requests done and requests in all; may raise to stop.
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
        # The harness encodes a question's context anew for each of its choices.
        self._encode = lru_cache(maxsize=16)(encoder.encode)
        self.max_length = max_length
        self.batch_size = batch_size
        self._after_batch = after_batch
        self.truncated = 0
        """Contexts of the last call that were cut to fit."""

    @property
    def eot_token_id(self) -> int:
        return self._encoder.eod

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **unused: Any
    ) -> list[int]:
        """Token ids of a text; nothing is added, as in training, whatever is asked."""
        del add_special_tokens, unused
        return list(self._encode(string))

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """As the harness defines it; the log of a job is no place for a progress bar."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats, and whether greedy decoding gives it, of each continuation.

        Raises:
            TaskError: a continuation has no token, or more than the model can read.
        """
        del disable_tqdm
        for texts, _, answer in requests:
            self._refuse_odd_length(texts[1], answer)
        wanted = fit([pair for _, *pair in requests], self._encoder.eod, self.max_length)
        cut_short = (
            tuple(context)
            for item, (_, context, answer) in zip(wanted, requests, strict=True)
            if len(item.read) + 1 < len(context) + len(answer)
        )
        self.truncated = len(set(cut_short))
        found: dict[int, tuple[float, bool]] = {}
        for batch in batches(wanted, self.batch_size):
            rows = [wanted[members[0]].read for members in batch]
            scores = self._logits(pad(rows, self._encoder.eod))
            flat = [(row, index) for row, members in enumerate(batch) for index in members]
            answers = pick(scores, [(row, wanted[index]) for row, index in flat])
            found.update((index, answer) for (_, index), answer in zip(flat, answers, strict=True))
            self._after_batch(len(found), len(wanted))
        return [found[index] for index in range(len(wanted))]

    def _refuse_odd_length(self, text: str, answer: list[int]) -> None:
        if not 1 <= len(answer) <= self.max_length:
            raise TaskError(
                f"the choice {text.strip()[:60]!r} has {len(answer)} tokens, "
                f"the model reads 1 to {self.max_length}",
                "leave the question out, or evaluate a model with a longer context",
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
    """Pairs of context and continuation in tokens, cut on the left to what the model can read.

    Continuations of one context are given the same part of it, what the longest of them leaves: the
    choices of a question are compared on equal terms.
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


def batches(wanted: Sequence[Scoring], size: int) -> Iterator[list[list[int]]]:
    """Rows to run, ``size`` at a time, longest first (what does not fit in memory fails at once).

    A row is a list of indices into ``wanted``: first the one whose tokens are run, then those whose
    tokens are the beginning of it. Neighbours in sorted order share most, so they stay together.
    """
    rows: list[list[int]] = []
    for index in sorted(range(len(wanted)), key=lambda i: wanted[i].read, reverse=True):
        # What extends a row sorts right behind it, so in reverse right before it.
        read = wanted[index].read
        if rows and wanted[rows[-1][0]].read[: len(read)] == read:
            rows[-1].append(index)
        else:
            rows.append([index])
    rows.sort(key=lambda members: -len(wanted[members[0]].read))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def pad(rows: Sequence[Sequence[int]], filler: int) -> torch.Tensor:
    """int64 ``[rows, longest]``, filled on the right, where a causal model does not look."""
    longest = max(len(row) for row in rows)
    return torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows])


def pick(scores: torch.Tensor, asked: Sequence[tuple[int, Scoring]]) -> list[tuple[float, bool]]:
    """Log-likelihood in nats and greediness of each continuation of a batch.

    Args:
        scores: ``[rows, sequence, vocabulary]``, unnormalised.
        asked: row of ``scores``, and what is scored there.
    """
    rows = [row for row, item in asked for _ in item.scored]
    columns = [item.first + i for _, item in asked for i in range(len(item.scored))]
    targets = torch.tensor(
        [token for _, item in asked for token in item.scored], device=scores.device
    )
    there = scores[rows, columns].float()
    likelihoods = there.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    greedy = there.argmax(-1) == targets
    tokens = zip(likelihoods.tolist(), greedy.tolist(), strict=True)
    parts = (list(islice(tokens, len(item.scored))) for _, item in asked)
    return [(math.fsum(value for value, _ in part), all(hit for _, hit in part)) for part in parts]
