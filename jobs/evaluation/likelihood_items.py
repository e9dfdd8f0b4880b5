"""The items of a score by likelihood, as token ids: a question, behind demonstrations, with its
options in some order.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import EvaluateSpec, GenerateSpec
from jobs.contract.units import plural
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation.items import ItemKey, digest_of
from jobs.evaluation.likelihood_prompts import ConversationPrompts, PlainPrompts, Prompts, Put
from jobs.questions.question import (
    LETTERED,
    Question,
    require_examples,
    require_permutable,
    stratified,
)

TOP_TOKEN, HARNESS = "top-token", "harness"
PER_SUBJECT = "per-subject"


@dataclass(frozen=True)
class Asked:
    """A question as it is put, in text."""

    key: ItemKey
    put: Put
    order: tuple[int, ...]
    """Of each option, its place as published."""


@dataclass(frozen=True)
class LikelihoodItem:
    """A question as it is put, in token ids."""

    asked: Asked
    prompt: array[int]
    options: tuple[tuple[int, ...], ...]

    @property
    def digest(self) -> str:
        """Return the digest of what the model is asked."""
        return digest_of(self.prompt.tolist(), self.options)


def prompts_of(spec: EvaluateSpec) -> Prompts:
    """Return how the questions of a score are put.

    Raises:
        TaskError: the instructions cannot be used, or lm-eval, for mode ``harness``, has no task
            for the benchmark.
    """
    if spec.mode == HARNESS:
        from jobs.evaluation.harness import HarnessPrompts

        return HarnessPrompts(spec.kind)
    if spec.template:
        return ConversationPrompts(spec.kind, spec.template, spec.instructions)
    return PlainPrompts()


def sample_of(questions: Sequence[Question], spec: EvaluateSpec | GenerateSpec) -> list[Question]:
    """Return the questions to score, in the order of their file."""
    test = [question for question in questions if question.split == "test"]
    return stratified(test, spec.limit, spec.seed) if spec.limit else test


def ask(questions: Sequence[Question], spec: EvaluateSpec, prompts: Prompts) -> Iterator[Asked]:
    """Yield what is asked of the model: all questions once per seed of the demonstrations, then
    once per permutation of their options.

    Args:
        questions: all of a benchmark, train records included.
        spec: of the score.
        prompts: ``prompts_of`` the spec.

    Raises:
        TaskError: there are fewer demonstrations than ``shots``, or no option has a place in the
            prompt, so that permuting them changes nothing.
    """
    per_subject = spec.demonstrations == PER_SUBJECT
    train = require_examples(spec.path, questions, spec.shots, per_subject)
    sample = sample_of(questions, spec)
    if spec.permute:
        require_permutable(spec.path, sample)
    for seed in seeds_of(spec):
        shown = Demonstrations(train, spec, seed)
        for number in range(spec.permute + 1):
            for question in sample:
                order = permutation(question, number, spec.seed)
                put = prompts.put(permuted(question, order), shown.before(question))
                yield Asked(ItemKey(question.id, seed, number), put, order)


def seeds_of(spec: EvaluateSpec) -> tuple[int, ...]:
    """Return the seeds of the demonstrations; 0 alone where there are none."""
    return (spec.seeds or (spec.seed,)) if spec.shots else (0,)


class Demonstrations:
    """The worked examples before each question: of the train records, shuffled with a seed, the
    first, as in the released evaluation (epfLLM/meditron:evaluation/benchmarks.py), which shuffles
    as Hugging Face's ``datasets`` does.
    """

    def __init__(
        self, train: Sequence[Question], spec: EvaluateSpec | GenerateSpec, seed: int
    ) -> None:
        self._spec = spec
        self._shuffled: list[Question] = []
        if spec.shots:
            import numpy  # not where no example is drawn

            order = numpy.random.default_rng(seed).permutation(len(train))
            self._shuffled = [train[int(place)] for place in order]

    def before(self, question: Question) -> list[Question]:
        """Return the examples before a question, of its subject where settings ask for that."""
        own = self._shuffled
        if self._spec.demonstrations == PER_SUBJECT:
            own = [example for example in own if example.subject == question.subject]
        return own[: self._spec.shots]


def permutation(question: Question, number: int, seed: int) -> tuple[int, ...]:
    """Return the order of the options of a permutation; that of number 0 is as published.

    The options of a prompt that does not list them have no order.
    """
    order = list(range(len(question.choices)))
    if number and question.style == LETTERED:
        random.Random(f"{seed} {number} {question.id}").shuffle(order)
    return tuple(order)


def permuted(question: Question, order: Sequence[int]) -> Question:
    """Return a question with its options in another order."""
    choices = tuple(question.choices[place] for place in order)
    return replace(question, choices=choices, answer=order.index(question.answer))


def encode(asked: Sequence[Asked], prompts: Prompts, encoder: Encoder) -> list[LikelihoodItem]:
    """Return what is asked as token ids."""
    encoded = prompts.encode([item.put for item in asked], encoder)
    return [LikelihoodItem(item, *ids) for item, ids in zip(asked, encoded, strict=True)]


def require_options(items: Sequence[LikelihoodItem], path: str, max_length: int) -> None:
    """Refuse options that the model cannot score.

    Raises:
        TaskError: an option has no token, or more than the model reads.
    """
    for item in items:
        for option in item.options:
            if not 1 <= len(option) <= max_length:
                raise TaskError(
                    f"{path}: an option of the question {item.asked.key.id!r} has "
                    f"{plural(len(option), 'token')}, the model reads 1 to {max_length}",
                    "remove the question, or evaluate a model with a longer context",
                )
