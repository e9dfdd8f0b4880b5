"""Conversations as token ids.

A turn is ``<|im_start|>``, its role, a line break, its text, ``<|im_end|>``, a line break (ChatML).
The two control tokens are put in by id: a text that contains their names is encoded as text. As
released, each piece between control tokens is encoded by itself
(epfLLM/Megatron-LLM:megatron/tokenizer/tokenizer.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jobs.contract.errors import TaskError
from jobs.data.tokenizer_file import Encoder
from jobs.prompts.templates import ASSISTANT, Turn

START, END = "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (START, END)


class Row(NamedTuple):
    """The tokens of a conversation."""

    ids: list[int]
    answer_start: int
    """Place of the first token of the assistant's turn, which is ``<|im_start|>``."""


@dataclass(frozen=True)
class TurnEncoder:
    """An encoder of conversations."""

    encoder: Encoder
    start: int
    """Id of ``<|im_start|>``."""
    end: int
    """Id of ``<|im_end|>``, which ends an answer."""
    between: tuple[int, ...]
    """Tokens behind ``<|im_end|>``."""
    head: tuple[int, ...]
    """Tokens of the assistant's turn before the answer, without ``<|im_start|>``."""

    @classmethod
    def of(cls, encoder: Encoder) -> TurnEncoder:
        """Return an encoder of conversations.

        Raises:
            TaskError: the vocabulary lacks a control token.
        """
        start, end = (_control(encoder, token) for token in CONTROL_TOKENS)
        _shield(encoder, {start, end})
        between, head = encoder.encode_all(["\n", f"{ASSISTANT}\n"])
        return cls(encoder, start, end, tuple(between), tuple(head))

    def prompts(self, conversations: Iterable[Sequence[Turn]]) -> list[list[int]]:
        """Return the tokens of each conversation up to the beginning of the answer."""
        return [[*ids, self.start, *self.head] for ids in self._joined(conversations)]

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """Return the tokens of one conversation up to the beginning of the answer."""
        return self.prompts([turns])[0]

    def rows(self, conversations: Iterable[tuple[Sequence[Turn], str]]) -> list[Row]:
        """Return the tokens of each conversation with its answer."""
        pairs = list(conversations)
        whole = self._joined([*turns, Turn(ASSISTANT, answer)] for turns, answer in pairs)
        return [Row(ids, _last_place(ids, self.start)) for ids in whole]

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of each text behind a prompt.

        Raises:
            TaskError: the tokenizer joins the beginning of an answer with what precedes it.
        """
        whole = self.encoder.encode_all([f"{ASSISTANT}\n{text}" for text in texts])
        size = len(self.head)
        for text, ids in zip(texts, whole, strict=True):
            if tuple(ids[:size]) != self.head:
                raise TaskError(
                    f"the tokenizer joins the answer {text[:40]!r} with the line before it",
                    "use a tokenizer that separates lines, as those of Llama do",
                )
        return [ids[size:] for ids in whole]

    def _joined(self, conversations: Iterable[Sequence[Turn]]) -> list[list[int]]:
        """Return the tokens of whole turns, behind BOS where documents have it."""
        several = list(conversations)
        texts = [f"{turn.role}\n{turn.text}" for turns in several for turn in turns]
        encoded = iter(self.encoder.encode_all(texts))
        begin = [] if self.encoder.bos is None else [self.encoder.bos]
        rows = []
        for turns in several:
            ids = list(begin)
            for text in itertools.islice(encoded, len(turns)):
                ids += [self.start, *text, self.end, *self.between]
            rows.append(ids)
        return rows


def _last_place(ids: Sequence[int], wanted: int) -> int:
    return next(place for place in range(len(ids) - 1, -1, -1) if ids[place] == wanted)


def _shield(encoder: Encoder, control: set[int]) -> None:
    """Mark the control tokens special where the file does not, so that they stay text in texts."""
    from tokenizers import AddedToken

    if control & {number for ids in encoder.encode_all(CONTROL_TOKENS) for number in ids}:
        tokens = [AddedToken(token, special=True) for token in CONTROL_TOKENS]
        encoder.tokenizer.add_special_tokens(tokens)


def _control(encoder: Encoder, token: str) -> int:
    number = encoder.tokenizer.token_to_id(token)
    if number is None:
        raise TaskError(
            f"the template needs the token {token!r}, which the vocabulary lacks",
            f"add it with finetune.added_tokens: [{', '.join(map(repr, CONTROL_TOKENS))}]",
        )
    return int(number)
