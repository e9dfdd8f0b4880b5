"""The prompts of a score by likelihood: plain ones, those that a finetuned model was taught with,
or lm-eval's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from jobs.data.tokenizer_file import Encoder
from jobs.prompts import few_shot, instructions, plain, templates
from jobs.prompts.encoding import END, START, TurnEncoder
from jobs.questions.question import Question

ENCODED_ITEMS = 64
"""Items that are encoded at once, by all cores."""
T = TypeVar("T")


@dataclass(frozen=True)
class Put:
    """A question as it is put, in text."""

    question: Question
    """With its options in the order in which they are put."""
    prompt: str
    options: tuple[str, ...]
    """The texts to score, one per choice."""


Ids = tuple["array[int]", tuple[tuple[int, ...], ...]]
"""The tokens of a prompt, and of each of its options."""


class Prompts(Protocol):
    """A way to put questions."""

    def put(self, question: Question, examples: Sequence[Question]) -> Put:
        """Return a question behind worked examples."""
        ...

    def encode(self, several: Sequence[Put], encoder: Encoder) -> Iterator[Ids]:
        """Yield each question as the model reads it."""
        ...


class TextPrompts:
    """A prompt that is one text, which an option continues."""

    def encode(self, several: Sequence[Put], encoder: Encoder) -> Iterator[Ids]:
        """Yield each prompt, and each option as it is tokenized behind its prompt.

        A space stands between the two, and belongs to the option, as does any space at the end of
        the prompt. The start of a document stands before an empty prompt.
        """
        begin = [] if encoder.bos is None else [encoder.bos]
        for some in chunks(several, ENCODED_ITEMS):
            texts = []
            for put in some:
                prompt = put.prompt.rstrip()
                space = put.prompt[len(prompt) :]
                texts += [prompt, *(f"{prompt}{space} {option}" for option in put.options)]
            encoded = iter(encoder.encode_all(texts))
            for put in some:
                ids = next(encoded)
                options = tuple(tuple(next(encoded)[len(ids) :]) for _ in put.options)
                yield array("i", [*begin, *ids] or [encoder.prefix]), options


class PlainPrompts(TextPrompts):
    """Questions as the released evaluation puts them to pretrained models."""

    def put(self, question: Question, examples: Sequence[Question]) -> Put:
        return Put(question, few_shot.prompt(question, examples), plain.continuations(question))


class ConversationPrompts:
    """Questions as a finetuned model was taught to answer them, with an instruction."""

    def __init__(self, kind: str, template: str, instructions_file: str) -> None:
        """Read the instructions.

        Raises:
            TaskError: the file cannot be used.
        """
        self._template = template
        self._instruction = instructions.load(instructions_file or None).of(kind)

    def put(self, question: Question, examples: Sequence[Question]) -> Put:
        """Return a question; a conversation has no worked examples."""
        del examples
        turns = "".join(f"{START}{turn.role}\n{turn.text}{END}\n" for turn in self._turns(question))
        prompt = f"{turns}{START}{templates.ASSISTANT}\n"
        return Put(question, prompt, templates.options(question, self._template))

    def encode(self, several: Sequence[Put], encoder: Encoder) -> Iterator[Ids]:
        """Yield each question's turns and options, control tokens by their ids.

        Raises:
            TaskError: the vocabulary lacks a control token.
        """
        turn_encoder = TurnEncoder.of(encoder)
        for some in chunks(several, ENCODED_ITEMS):
            prompts = turn_encoder.prompts(self._turns(put.question) for put in some)
            texts = list(dict.fromkeys(option for put in some for option in put.options))
            ids = dict(zip(texts, map(tuple, turn_encoder.answers(texts)), strict=True))
            for put, prompt in zip(some, prompts, strict=True):
                yield array("i", prompt), tuple(ids[option] for option in put.options)

    def _turns(self, question: Question) -> tuple[templates.Turn, ...]:
        return templates.conversation(question, self._instruction, self._template)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield items, some at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
