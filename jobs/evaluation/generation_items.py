"""Prompts that a model answers in text, as token ids, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import GenerateSpec
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation.items import ItemKey
from jobs.evaluation.likelihood_items import PER_SUBJECT, Demonstrations, sample_of
from jobs.prompts import few_shot, instructions, plain, templates
from jobs.prompts.encoding import END, START, TurnEncoder
from jobs.prompts.templates import ASSISTANT, CODE, Turn
from jobs.questions.question import LETTERED, LETTERS, OPEN, TEXTS, Question, require_examples

COT, SC_COT, TOP_TOKEN = "cot", "sc-cot", "top-token"


@dataclass(frozen=True)
class Prompt:
    """A question as it is put, once or to be answered several times."""

    question: Question
    seed: int
    """Of the demonstrations; 0 without."""
    text: str
    ids: tuple[int, ...]
    """Cut on the left to leave room for the answer."""
    is_truncated: bool

    def keys(self, samples: int) -> list[ItemKey]:
        """Return the identities of its answers."""
        return [ItemKey(self.question.id, self.seed, sample) for sample in range(samples)]


class Prompts(NamedTuple):
    """All prompts of a score, and the tokens that end an answer."""

    prompts: list[Prompt]
    stop_tokens: tuple[int, ...]


def ask(questions: Sequence[Question], spec: GenerateSpec, encoder: Encoder, room: int) -> Prompts:
    """Return the prompts of all questions, once per seed of the demonstrations.

    Args:
        questions: all of a benchmark, train records included.
        spec: of the score.
        encoder: of the model.
        room: most tokens of a prompt.

    Raises:
        TaskError: there are fewer demonstrations than ``shots``, the instructions cannot be used,
            or the vocabulary lacks a token of the template.
    """
    cot = spec.mode in (COT, SC_COT)
    instruction = instructions.load(spec.instructions or None).of(spec.kind, cot)
    sample = sample_of(questions, spec)
    if not spec.template:
        sample = [listed(question) for question in sample]
    turns = [
        templates.open_turns(question)
        if question.style == OPEN
        else templates.conversation(question, instruction, spec.template or CODE, cot)
        for question in sample
    ]
    if spec.template:
        turn_encoder = TurnEncoder.of(encoder)
        asked = zip(sample, map(rendered, turns), turn_encoder.prompts(turns), strict=True)
        return Prompts([put(*one, 0, room) for one in asked], (turn_encoder.end,))
    per_subject = spec.demonstrations == PER_SUBJECT
    train = require_examples(spec.path, questions, spec.shots, per_subject)
    prompts = []
    for seed in spec.seeds if spec.shots else (0,):
        shown = Demonstrations(train, spec, seed)
        texts = [
            plain.open_exchange(question)
            if question.style == OPEN
            else few_shot.prompt(question, shown.before(question), instruction.system)
            if spec.shots and not cot
            else turn[0].text.rstrip("" if spec.legacy else None)
            for question, turn in zip(sample, turns, strict=True)
        ]
        begin = [] if encoder.bos is None else [encoder.bos]
        encoded = ([*begin, *ids] for ids in encoder.encode_all(texts))
        prompts += [put(*one, seed, room) for one in zip(sample, texts, encoded, strict=True)]
    return Prompts(prompts, ())


def listed(question: Question) -> Question:
    """Return a question whose prompt lists its options: a model that was not taught to answer
    without them chooses among what it sees.
    """
    if question.style != TEXTS or len(question.choices) > len(LETTERS):
        return question
    return replace(question, style=LETTERED)


def put(question: Question, text: str, ids: Sequence[int], seed: int, room: int) -> Prompt:
    """Return a prompt, without its beginning where it has too many tokens."""
    return Prompt(question, seed, text, tuple(ids[-room:]), len(ids) > room)


def rendered(turns: Sequence[Turn]) -> str:
    """Return a conversation up to the beginning of the answer as text, for people."""
    whole = (f"{START}{turn.role}\n{turn.text}{END}\n" for turn in turns)
    return f"{''.join(whole)}{START}{ASSISTANT}\n"


def batches(prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """Return the places of prompts that are answered at once, the longest first: lack of memory
    shows at once. The number of tasks does not change them.
    """
    order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place].ids), place))
    return [order[start : start + size] for start in range(0, len(order), size)]


def room_for_prompts(context: int, spec: GenerateSpec, where: str) -> int:
    """Return the most tokens of a prompt.

    Raises:
        TaskError: the answer alone takes the whole context.
    """
    room = context - spec.max_tokens
    if room < 1:
        raise TaskError(
            f"{where}: the model reads {context} tokens, which {spec.max_tokens} of an answer "
            "leave no room for a question in",
            "set evaluate.generate.max_tokens below the context of the model",
        )
    return room
