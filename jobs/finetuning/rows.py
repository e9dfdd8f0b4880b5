"""Rows of tokens of questions with their answers: cut to a length, and written."""

from __future__ import annotations

import dataclasses
import io
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy

from jobs.contract.atomic_file import write_blocks
from jobs.data.indexed_dataset import IndexedWriter, stored
from jobs.prompts.encoding import Row, TurnEncoder
from jobs.prompts.templates import Turn
from jobs.questions.question import Question

TRAIN, VALIDATION = "train", "validation"
FIRST_WORD = re.compile(r"\S+")


class Dialogue(NamedTuple):
    """The turns before an answer, and the answer."""

    turns: tuple[Turn, ...]
    answer: str


Render = Callable[[Question], Dialogue]


def fit(
    question: Question, row: Row, limit: int, render: Render, encoder: TurnEncoder
) -> Row | None:
    """Return a question's row with at most so many tokens; None where the question and its answer
    alone have more.

    The context loses its beginning, up to a word, since the results of a study stand at its end.
    """
    context = "\n".join(question.context)
    encoding = encoder.encoder.tokenizer.encode(context, add_special_tokens=False)
    places = [begin for begin, _ in encoding.offsets]
    kept = len(places)
    while len(row.ids) > limit:
        if not question.context:
            return None
        kept -= len(row.ids) - limit
        rest = context[places[-kept] :] if kept > 0 else ""
        if rest and not context[len(context) - len(rest) - 1].isspace():
            rest = FIRST_WORD.sub("", rest, count=1)
        question = dataclasses.replace(question, context=(rest.lstrip(),) if rest.strip() else ())
        (row,) = encoder.rows([render(question)])
    return row


class RowWriter:
    """An indexed dataset of rows, and the places where their answers begin, under temporary names
    until it is published.
    """

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self._answers = array("i")
        self._place = folder / f"{split}.answers.npy"
        self._dataset = IndexedWriter(folder / split, dtype)
        self._type = stored(dtype)
        self.scored = 0
        """Tokens of answers."""
        self.longest = 0

    @property
    def rows(self) -> int:
        return self._dataset.documents

    @property
    def tokens(self) -> int:
        return self._dataset.tokens

    def add(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        if not rows:
            return
        lengths = numpy.array([len(row.ids) for row in rows], numpy.int32)
        ids = array("i")
        for row in rows:
            ids.fromlist(row.ids)  # four times as fast as numpy.array
        self._dataset.add(numpy.asarray(ids).astype(self._type), lengths)
        begins = [row.answer_start for row in rows]
        self._answers.extend(begins)
        self.scored += int(lengths.sum()) - sum(begins)
        self.longest = max(self.longest, int(lengths.max()))

    def seal(self) -> dict[str, str]:
        """Write the dataset to the disk; return the SHA-256 of its files, by their names."""
        self._dataset.seal()
        return {part.path.name: part.sha256 for part in self._dataset.parts}

    def publish(self) -> None:
        """Rename the files; the index comes last: it implies complete data."""
        content = io.BytesIO()
        numpy.save(content, numpy.array(self._answers, numpy.int32))
        write_blocks(self._place, [content.getvalue()])
        self._dataset.publish()

    def discard(self) -> None:
        """Remove the files that were not published."""
        self._dataset.discard()


def files(split: str) -> tuple[str, ...]:
    """Return the names of the files of a split."""
    return tuple(f"{split}{suffix}" for suffix in (".bin", ".idx", ".answers.npy"))
