"""The sample corpus: every fact told many times, in the manner of several kinds of medical writing.

The corpus is made in rounds. A round tells every fact once in each of two ways: with the facts of its own
table (guidelines, summaries, question lists) and among facts of other tables (case notes, tutorials,
question lists), so that a reader has to tie the answer to the entity and not to its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from .facts import Fact, Relation, facts_of

Record = dict[str, str]

ROUNDS = 40
"""Rounds in the shipped sample; with them the corpus holds some five megabytes."""
FACTS_A_DOCUMENT = 6

OPENERS = (
    "",
    "",
    "",
    "In short, ",
    "As a rule, ",
    "In practice, ",
    "Key point: ",
    "Reminder: ",
    "For the record, ",
    "At handover: ",
)
INTRODUCTIONS = (
    "These points were agreed by the panel.",
    "The section below is short on purpose.",
    "Staff should know the following by heart.",
    "What follows is settled knowledge.",
)
PEOPLE = ("teacher", "farmer", "nurse", "driver", "student", "baker", "pensioner", "clerk")
PLACES = ("outpatient clinic", "emergency department", "ward", "health centre")


def documents(relations: Sequence[Relation], seed: int, rounds: int = ROUNDS) -> Iterator[Record]:
    """Records ``{"id", "source", "title", "text"}``, each id and each text once; the same for the same seed."""
    random = Random(f"corpus {seed}")
    everything = [fact for relation in relations for fact in facts_of(relation)]
    for turn in range(rounds):
        for relation in relations:
            write = (guideline, summary, question_list)[turn % 3]
            for part, facts in enumerate(_groups(facts_of(relation), random), start=1):
                heading = f"{relation.heading}, edition {turn + 1}, part {part}"
                yield _record(write, f"{relation.name}-{turn}-{part}", heading, facts, random)
        write = (case_note, tutorial, question_list)[turn % 3]
        for part, facts in enumerate(_groups(everything, random), start=1):
            yield _record(write, f"mixed-{turn}-{part}", f"Folder {turn + 1}, sheet {part}", facts, random)


def guideline(facts: Sequence[Fact], random: Random) -> str:
    """Numbered recommendations."""
    lines = [f"{number}. {_sentence(fact, random)}" for number, fact in enumerate(facts, start=1)]
    return "\n".join([random.choice(INTRODUCTIONS), *lines])


def summary(facts: Sequence[Fact], random: Random) -> str:
    """A list of entity and answer."""
    return "\n".join(f"- {fact.entity}: {fact.answer}. {_sentence(fact, random)}" for fact in facts)


def question_list(facts: Sequence[Fact], random: Random) -> str:
    """Questions with their answers, as in a leaflet."""
    return "\n\n".join(
        f"Question: {_question(fact, random)}\nAnswer: {fact.answer}. {_sentence(fact, random)}" for fact in facts
    )


def case_note(facts: Sequence[Fact], random: Random) -> str:
    """A visit, and what was said at the discussion after it."""
    person, place, age = random.choice(PEOPLE), random.choice(PLACES), random.randrange(18, 90)
    visit = f"A {person} aged {age} was seen in the {place}. The discussion touched on several points."
    return " ".join([visit, *(_sentence(fact, random) for fact in facts)])


def tutorial(facts: Sequence[Fact], random: Random) -> str:
    """A tutor asks, a student answers."""
    return "\n".join(
        f"Tutor: {_question(fact, random)}\nStudent: {fact.answer}.\nTutor: {_sentence(fact, random)}"
        for fact in facts
    )


def _record(
    write: Callable[[Sequence[Fact], Random], str], name: str, heading: str, facts: Sequence[Fact], random: Random
) -> Record:
    source = write.__name__
    text = f"{heading}\n\n{write(facts, random)}\n"
    return {"id": f"{source}-{name}", "source": source, "title": heading, "text": text}


def _groups(facts: Sequence[Fact], random: Random) -> Iterator[list[Fact]]:
    """All facts in a new order, a few at a time."""
    order = random.sample(facts, len(facts))
    for start in range(0, len(order), FACTS_A_DOCUMENT):
        yield order[start : start + FACTS_A_DOCUMENT]


def _sentence(fact: Fact, random: Random) -> str:
    text = random.choice(OPENERS) + fact.state(random.choice(fact.relation.statements))
    return f"{_capital(text)}."


def _question(fact: Fact, random: Random) -> str:
    return _capital(fact.state(random.choice(fact.relation.questions)))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
