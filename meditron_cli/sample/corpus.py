"""Generate the sample corpus: every fact several times, in several kinds of medical writing.

The corpus is made in rounds. A round states every fact twice: with other facts of its own table
(guidelines, summaries, question lists) and among facts of all tables (case notes, tutorials,
question lists), so that a reader has to tie the answer to the entity and not to its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random

from meditron_cli.sample.facts import Fact, Relation, facts_of

Record = dict[str, str]
Writer = Callable[[Sequence[Fact], Random], str]

ROUNDS = 40
"""Rounds in the shipped sample; with them the corpus holds between four and five megabytes."""
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
ANSWER_CUES = ("Answer:", "The answer is:", "In a word:")
INTRODUCTIONS = (
    "These points were agreed by the panel.",
    "The section below is short on purpose.",
    "Staff should know the following by heart.",
    "What follows is settled knowledge.",
)
PEOPLE = ("teacher", "farmer", "nurse", "driver", "student", "baker", "pensioner", "clerk")
PLACES = ("outpatient clinic", "emergency department", "ward", "health centre")


def documents(relations: Sequence[Relation], seed: int) -> Iterator[Record]:
    """Yield records ``{"id", "source", "title", "text"}``, ids and texts distinct, fixed by the
    seed.
    """
    random = Random(f"corpus {seed}")
    for turn in range(ROUNDS):
        yield from _by_table(relations, turn, random)
        yield from _across_tables(relations, turn, random)


def guideline(facts: Sequence[Fact], random: Random) -> str:
    """Return numbered recommendations."""
    lines = [f"{number}. {_sentence(fact, random)}" for number, fact in enumerate(facts, start=1)]
    return "\n".join([random.choice(INTRODUCTIONS), *lines])


def summary(facts: Sequence[Fact], random: Random) -> str:
    """Return a list of entity and answer, each with a sentence."""
    return "\n".join(f"- {fact.entity}: {fact.answer}. {_sentence(fact, random)}" for fact in facts)


def question_list(facts: Sequence[Fact], random: Random) -> str:
    """Return questions with their answers, as in a leaflet."""
    return "\n\n".join(
        f"Question: {_question(fact, random)}\n"
        f"{random.choice(ANSWER_CUES)} {fact.answer}. {_sentence(fact, random)}"
        for fact in facts
    )


def case_note(facts: Sequence[Fact], random: Random) -> str:
    """Return a visit and the discussion after it."""
    person, place, age = random.choice(PEOPLE), random.choice(PLACES), random.randrange(18, 90)
    visit = f"A {person} aged {age} was seen in the {place}."
    sentences = (_sentence(fact, random) for fact in facts)
    return " ".join([visit, "The discussion touched on several points.", *sentences])


def tutorial(facts: Sequence[Fact], random: Random) -> str:
    """Return a dialogue of a tutor's questions and a student's answers."""
    return "\n".join(
        f"Tutor: {_question(fact, random)}\n"
        f"Student: {fact.answer}.\n"
        f"Tutor: {_sentence(fact, random)}"
        for fact in facts
    )


def _by_table(relations: Sequence[Relation], turn: int, random: Random) -> Iterator[Record]:
    write = (guideline, summary, question_list)[turn % 3]
    for relation in relations:
        for part, facts in enumerate(_groups(facts_of(relation), random), start=1):
            title = f"{relation.heading}, edition {turn + 1}, part {part}"
            yield _record(write, f"{relation.name}-{turn + 1}-{part}", title, facts, random)


def _across_tables(relations: Sequence[Relation], turn: int, random: Random) -> Iterator[Record]:
    write = (case_note, tutorial, question_list)[turn % 3]
    everything = [fact for relation in relations for fact in facts_of(relation)]
    for part, facts in enumerate(_groups(everything, random), start=1):
        title = f"Folder {turn + 1}, sheet {part}"
        yield _record(write, f"mixed-{turn + 1}-{part}", title, facts, random)


def _record(write: Writer, name: str, title: str, facts: Sequence[Fact], random: Random) -> Record:
    source = write.__name__
    text = f"{title}\n\n{write(facts, random)}\n"
    return {"id": f"{source}-{name}", "source": source, "title": title, "text": text}


def _groups(facts: Sequence[Fact], random: Random) -> Iterator[list[Fact]]:
    """Yield all facts in a new order, a few at a time."""
    order = random.sample(facts, len(facts))
    for start in range(0, len(order), FACTS_A_DOCUMENT):
        yield order[start : start + FACTS_A_DOCUMENT]


def _sentence(fact: Fact, random: Random) -> str:
    opener = random.choice(OPENERS)
    return f"{_capital(opener + fact.state(random.choice(fact.relation.statements)))}."


def _question(fact: Fact, random: Random) -> str:
    return _capital(fact.state(random.choice(fact.relation.questions)))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
