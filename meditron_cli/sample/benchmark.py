"""Generate the sample benchmark: one question per fact, with four choices, and questions to learn
from.

The wrong choices are right answers of other facts of the same table, and every answer is a wrong
choice three times as often as it is the right one. So a reader who likes some answers better than
others, but does not know what they answer, is right one time in four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from meditron_cli.sample.facts import Fact, Relation, facts_of

WRONG_CHOICES = 3


def questions(relations: Sequence[Relation], seed: int) -> list[dict[str, Any]]:
    """Return records ``{"id", "question", "choices", "answer", "subject"}``, fixed by the seed.

    ``answer`` is the index of the right choice; each index serves equally often, to within one.

    Raises:
        ValueError: a table is too small, or too much in it is also right, for three wrong choices.
    """
    random = Random(f"benchmark {seed}")
    pairs = [pair for relation in relations for pair in _with_wrong_choices(relation, random)]
    random.shuffle(pairs)
    return [_record(number, fact, wrong, random) for number, (fact, wrong) in enumerate(pairs)]


def _record(number: int, fact: Fact, wrong: list[str], random: Random) -> dict[str, Any]:
    position = number % (WRONG_CHOICES + 1)
    choices = random.sample(wrong, len(wrong))
    choices.insert(position, fact.answer)
    return {
        "id": f"sample-{number:04d}",
        "question": fact.state(random.choice(fact.relation.stems)),
        "choices": choices,
        "answer": position,
        "subject": fact.relation.subject,
    }


def train_questions(relations: Sequence[Relation], seed: int) -> list[dict[str, Any]]:
    """Return questions with the split ``train`` and an ``explanation``: about the facts of
    ``questions``, with the same choices, in each wording of the corpus.

    A model that is finetuned on them learns how questions are put, in wordings other than those of
    the benchmark.
    """
    asked = {
        fact.state(stem): fact
        for relation in relations
        for fact in facts_of(relation)
        for stem in relation.stems
    }
    found = [
        _train_record(record, asked[record["question"]], number)
        for record in questions(relations, seed)
        for number in range(len(asked[record["question"]].relation.questions))
    ]
    Random(f"train {seed}").shuffle(found)
    return found


def _train_record(record: Mapping[str, Any], fact: Fact, number: int) -> dict[str, Any]:
    statements = fact.relation.statements
    statement = fact.state(statements[number % len(statements)])
    return {
        **record,
        "id": f"{record['id']}-{number}",
        "question": fact.state(fact.relation.questions[number]),
        "split": "train",
        "explanation": statement[0].upper() + statement[1:],
    }


def _with_wrong_choices(relation: Relation, random: Random) -> list[tuple[Fact, list[str]]]:
    """Distribute the table's answers three times, so that each fact gets three wrong choices."""
    facts = facts_of(relation)
    hands: list[list[str]] = [[] for _ in facts]
    for _ in range(WRONG_CHOICES):
        dealt = _deal(facts, hands, random)
        hands = [[*hand, answer] for hand, answer in zip(hands, dealt, strict=True)]
    return list(zip(facts, hands, strict=True))


def _deal(facts: Sequence[Fact], hands: Sequence[Sequence[str]], random: Random) -> list[str]:
    """Return one more wrong choice per fact: a permutation of the answers that fits every fact.

    Found as a bipartite matching by augmenting paths (Kuhn 1955, the Hungarian method), over the
    answers in random order.
    """
    answers = [fact.answer for fact in facts]
    random.shuffle(answers)
    owner: dict[int, int] = {}  # answer's place -> fact's place

    def place(fact: int, tried: set[int]) -> bool:
        for answer, text in enumerate(answers):
            if answer in tried or not _fits(facts[fact], hands[fact], text):
                continue
            tried.add(answer)
            if answer not in owner or place(owner[answer], tried):
                owner[answer] = fact
                return True
        return False

    for fact in range(len(facts)):
        if not place(fact, set()):
            name = facts[fact].relation.name
            raise ValueError(
                f"table {name}: no {WRONG_CHOICES} wrong choices for every entity; add facts"
            )
    return [answers[answer] for answer, _ in sorted(owner.items(), key=lambda pair: pair[1])]


def _fits(fact: Fact, hand: Sequence[str], answer: str) -> bool:
    return (
        answer != fact.answer
        and answer not in hand
        and answer not in fact.relation.also_right.get(fact.entity, ())
    )
