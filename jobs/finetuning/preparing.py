"""Make the rows of a preparation: read, leave out, put into turns, encode, cut, hold out."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract.corpus.benchmark_files import train_files
from jobs.contract.corpus.rules import BenchmarkFile
from jobs.contract.errors import TaskError
from jobs.contract.preparations import PQA_A_TRAIN, Part
from jobs.contract.stage_specs.preparation import PrepareSpec
from jobs.finetuning.contained import Comparison
from jobs.finetuning.fast_encoder import FastEncoder
from jobs.finetuning.preparations import assigned, train_places
from jobs.finetuning.rows import Dialogue, Render, RowWriter, fit
from jobs.prompts import instructions
from jobs.prompts.encoding import Row, TurnEncoder
from jobs.prompts.instructions import Instructions
from jobs.prompts.templates import conversation, exchange, gold
from jobs.questions import exchanges
from jobs.questions.exchanges import Exchange, read_exchanges
from jobs.questions.question import LETTERS, WORDED, Question
from jobs.questions.readers import read_train
from jobs.tokenization import engine as engines

BATCH = 1024
"""Items that are encoded together."""
Item = Question | Exchange
ANSWER_KEY = b'"final_decision"'
BLOCK_BYTES = 1 << 20


@dataclass
class Counts:
    """The items of a part of a preparation."""

    kind: str
    published: int
    files: tuple[str, ...]
    read: int = 0
    not_published: int = 0
    """Beyond those that PQA-A's authors train on."""
    unexplained: int = 0
    """Without the explanation that the preparation needs."""
    contained: int = 0
    """Occur in test questions."""
    too_long: int = 0
    """Left out: question and answer alone are longer than a row."""
    truncated: int = 0
    """Lost the beginning of their context."""
    train: int = 0
    validation: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    """Of the rows, by the letter or word that is right."""
    first_row: str = ""

    @property
    def items(self) -> int:
        """Return the items by which a preparation is counted: before any is compared or cut."""
        return self.read - self.not_published - self.unexplained


class Made(NamedTuple):
    """The row of an item that is kept."""

    item: Item
    row: Row


class Preparing:
    """The preparation of one model's rows."""

    def __init__(
        self, spec: PrepareSpec, writers: Sequence[RowWriter], engine: str = engines.AUTO
    ) -> None:
        """Read the tokenizer, the instructions and the test questions.

        Args:
            spec: of the task.
            writers: of train and validation.
            engine: the library that encodes, as ``tokenize.engine``.

        Raises:
            TaskError: one of them cannot be used, or the files are not those of the preparation.
        """
        self._spec = spec
        self._train, self._validation = writers
        self._turns = TurnEncoder.of(FastEncoder.load_fast(spec.tokenizer, engine))
        self._instructions: Instructions = instructions.load(spec.instructions or None)
        self._parts = assigned(spec.preparation, spec.data, spec.reasoned)
        self.comparison = Comparison(spec.decontamination) if spec.decontamination else None
        self.counts: list[Counts] = []

    def run(self, after_batch: Callable[[int], None]) -> None:
        """Write all rows; ``after_batch`` is called with the number of items read.

        Raises:
            TaskError: a file cannot be read, or breaks its layout.
            EngineDiffers: gigatoken gave other ids than ``tokenizers``.
        """
        done = 0
        for part, files in self._parts:
            counts = Counts(part.kind, part.published, tuple(file.path for file in files))
            self.counts.append(counts)
            items = chosen(part, files, counts)
            while batch := list(itertools.islice(items, BATCH)):
                self._write(part, batch, counts)
                after_batch(done + counts.read)
            done += counts.read

    def _write(self, part: Part, batch: list[Item], counts: Counts) -> None:
        """Write the rows of some items."""
        if self.comparison:
            names, texts = [item.id for item in batch], [searched(item) for item in batch]
            left_out = self.comparison.left_out(names, texts)
            counts.contained += sum(left_out)
            pairs = zip(batch, left_out, strict=True)
            batch = [item for item, is_test in pairs if not is_test]
        made = list(self._rows(part, batch, counts))
        if made and not counts.first_row:
            ids = made[0].row.ids
            tokenizer = self._turns.encoder.tokenizer
            counts.first_row = tokenizer.decode(ids, skip_special_tokens=False)
        held_out = [is_held_out(item, self._spec.seed, self._spec.holdout) for item, _ in made]
        rows = [row for _, row in made]
        self._train.add(list(itertools.compress(rows, (not held for held in held_out))))
        self._validation.add(list(itertools.compress(rows, held_out)))
        counts.validation += sum(held_out)
        counts.train += len(rows) - sum(held_out)
        counts.answers.update(answer_of(item) for item, _ in made)

    def _rows(self, part: Part, batch: Sequence[Item], counts: Counts) -> Iterator[Made]:
        """Yield the row of each item that fits, in their order."""
        render = self._renderer(part)
        dialogues = [
            render(item) if isinstance(item, Question) else put_as_it_is(item) for item in batch
        ]
        limit = self._spec.sequence_length
        for item, row in zip(batch, self._turns.rows(dialogues), strict=True):
            if len(row.ids) <= limit:
                yield Made(item, row)
                continue
            cut = fit(item, row, limit, render, self._turns) if isinstance(item, Question) else None
            if cut is None:
                counts.too_long += 1
            else:
                counts.truncated += 1
                yield Made(item, cut)

    def _renderer(self, part: Part) -> Render:
        instruction = self._instructions.of(part.kind, part.reasoned)
        template = self._spec.template

        def render(question: Question) -> Dialogue:
            turns = conversation(question, instruction, template, part.reasoned)
            return Dialogue(turns, gold(question, template, part.reasoned))

        return render

    def report(self) -> dict[str, Any]:
        """Return what was counted."""
        return {
            "parts": [vars(counts) | {"items": counts.items} for counts in self.counts],
            "decontamination": self.comparison.report() if self.comparison else None,
        }


def chosen(part: Part, files: Sequence[BenchmarkFile], counts: Counts) -> Iterator[Item]:
    """Yield the items of a part's files that belong to its preparation."""
    for file in files:
        places = None
        if part.published == PQA_A_TRAIN:
            source, *_ = train_files(Path(file.path), file.kind)
            places = train_places(count_records(source))
        for place, item in enumerate(records(file)):
            counts.read += 1
            if places is not None and place not in places:
                counts.not_published += 1
            elif part.explained and isinstance(item, Question) and not item.explanation:
                counts.unexplained += 1
            else:
                yield item


def count_records(path: Path) -> int:
    """Return the records of a file of PubMedQA, by a key that each has once: an unescaped quotation
    mark ends a text.

    Raises:
        TaskError: the file cannot be read.
    """
    count, rest = 0, b""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                text = rest + block
                count += text.count(ANSWER_KEY)
                rest = text[len(text) - len(ANSWER_KEY) + 1 :]
    except OSError as error:
        raise TaskError(f"{path}: {error.strerror}", "check `path` of the file") from error
    return count


def records(file: BenchmarkFile) -> Iterator[Item]:
    """Yield the train records of a file."""
    path = Path(file.path)
    if file.kind == exchanges.KIND:
        return read_exchanges(path)
    return read_train(path, file.kind, file.options)


def searched(item: Item) -> str:
    """Return the text in which test questions are looked for."""
    if isinstance(item, Exchange):
        return item.prompt
    return "\n".join([item.text, *item.choices]) if item.style != WORDED else item.text


def put_as_it_is(item: Exchange) -> Dialogue:
    return Dialogue(exchange(item.prompt, item.system), item.gold)


def answer_of(item: Item) -> str:
    """Return the right choice, by which rows are counted."""
    if isinstance(item, Exchange):
        return ""
    return item.choices[item.answer] if item.style == WORDED else LETTERS[item.answer]


def is_held_out(item: Item, seed: int, share: float) -> bool:
    """Return whether an item is validated on: the hash of its text, which equal items share and
    which no other item changes, is below the share.
    """
    text = "\n".join(item.identity) if isinstance(item, Question) else item.prompt
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64
