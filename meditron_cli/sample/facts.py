"""Read the tables of facts of the sample: relations, each with its facts and wordings.

A relation is a question that has one right answer for each of its entities, such as the antidote to
a poison. The tables are JSON files in ``facts/``; statements and questions are worded for the
corpus, stems for the benchmark alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Relation:
    """One table: the relation of ``answer`` to ``entity``, and its wordings.

    Wordings hold the placeholders ``{entity}`` and ``{answer}``.
    """

    name: str
    subject: str
    """The field of medicine, as the benchmark names it."""
    heading: str
    """Title of the documents with these facts together."""
    statements: tuple[str, ...]
    """Sentences of the corpus, without capital and full stop."""
    questions: tuple[str, ...]
    """Questions of the corpus."""
    stems: tuple[str, ...]
    """Questions of the benchmark; their wording never enters the corpus."""
    facts: Mapping[str, str]
    """Entity to answer."""
    also_right: Mapping[str, tuple[str, ...]]
    """Answers of other entities that could be defended for this one: never its wrong choices."""


@dataclass(frozen=True)
class Fact:
    """One line of a table."""

    relation: Relation
    entity: str
    answer: str

    def state(self, wording: str) -> str:
        """Return a statement, a question or a stem about this fact."""
        return wording.format(entity=self.entity, answer=self.answer)


def load() -> tuple[Relation, ...]:
    """Return all relations, in the order of their file names and positions."""
    folder = resources.files(__package__) / "facts"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    return tuple(_relation(table) for f in files for table in json.loads(f.read_text("utf-8")))


def facts_of(relation: Relation) -> tuple[Fact, ...]:
    """Return the facts of one relation, in the order of its table."""
    return tuple(Fact(relation, entity, answer) for entity, answer in relation.facts.items())


def _relation(table: dict[str, Any]) -> Relation:
    return Relation(
        name=table["name"],
        subject=table["subject"],
        heading=table["heading"],
        statements=tuple(table["statements"]),
        questions=tuple(table["questions"]),
        stems=tuple(table["stems"]),
        facts=table["facts"],
        also_right={
            entity: tuple(answers) for entity, answers in table.get("also_right", {}).items()
        },
    )
