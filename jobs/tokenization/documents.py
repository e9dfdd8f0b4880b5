"""Read the documents of a stretch of a shard, cut at their markup tokens.

A markup or control token stands where the curator put one (``spans``), and nowhere else: its name
in a text is ordinary text, which is counted.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.contract.errors import RESUME, TaskError
from jobs.data import document_map
from jobs.data.cleaning import SPANS_KEY, length_problem
from jobs.data.json_stream import BYTE_ORDER_MARK
from jobs.data.json_text import BLOCK_BYTES, MAX_RECORD_BYTES
from jobs.tokenization.stretches import Stretch

BATCH_DOCUMENTS = 4096
SOURCE_KEY = "source"
"""Key of the name of a document's source in the shards that curate writes."""


@dataclass
class Batch:
    """Consecutive documents of a shard that have a text."""

    texts: list[str] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    """Of all texts, cut at markup tokens; none is empty."""
    ends: list[int] = field(default_factory=list)
    """Pieces up to the end of each text."""
    markup: list[tuple[int, int, int]] = field(default_factory=list)
    """Of each markup token the text it is in, the pieces before it, and its id; in order."""
    begins: list[int] = field(default_factory=list)
    """Where the line of each text begins in the shard."""
    ids: list[int] = field(default_factory=list)
    """Hash of the id of each text's document."""
    sources: list[str] = field(default_factory=list)
    """Name of the source of each text; empty where its record has none."""
    read: int = 0
    """Documents, including those without a text."""
    literals: int = 0
    """Names of tokens that the texts contain beside their markup."""
    position: int = 0
    """Bytes of the shard up to the end of the last document."""


class Names:
    """The names of tokens, to be counted in texts."""

    def __init__(self, names: Sequence[str]) -> None:
        rests: dict[str, list[str]] = {}
        for name in sorted(names, key=len, reverse=True):
            rests.setdefault(name[0], []).append(re.escape(name[1:]))
        # A pattern that begins with one character is found at the speed of memory.
        self._patterns = [
            re.compile(f"{re.escape(first)}(?:{'|'.join(rest)})") for first, rest in rests.items()
        ]

    def count(self, text: str) -> int:
        """Return how often a text contains one of the names."""
        return sum(
            sum(1 for _ in pattern.finditer(text))
            for pattern in self._patterns
            if pattern.search(text)
        )


@dataclass(frozen=True)
class Reader:
    """A way to read the documents of a corpus."""

    text_key: str
    markup: Mapping[str, int]
    """Id of each token that spans may name; empty where the texts contain their tokens."""
    names: Names
    characters: int
    """Of a batch, about."""

    def batches(self, stretch: Stretch) -> Iterator[Batch]:
        """Yield the documents of a stretch.

        Raises:
            TaskError: a line is not a JSON object with a text of a length that curate writes.
        """
        batch, characters = Batch(position=stretch.begin), 0
        for begin, end, record in self._records(stretch):
            text = record[self.text_key]
            batch.read, batch.position = batch.read + 1, end
            if text:
                self._add(batch, text, record)
                batch.begins.append(begin)
            characters += len(text)
            if characters >= self.characters or batch.read >= BATCH_DOCUMENTS:
                yield batch
                batch, characters = Batch(position=end), 0
        if batch.read:
            yield batch

    def _records(self, stretch: Stretch) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Yield begin, end and content of each line that is not blank."""
        from jobs.data.readers import parse

        path, position = stretch.path, stretch.begin
        with path.open("rb", buffering=BLOCK_BYTES) as file:
            file.seek(position)
            while position < stretch.end and (line := file.readline(MAX_RECORD_BYTES + 1)):
                begin, position = position, position + len(line)
                if not begin:
                    line = line.removeprefix(BYTE_ORDER_MARK)
                if not (record := line.strip()):
                    continue
                value, problem = parse(record, self.text_key)
                if len(line) > MAX_RECORD_BYTES:
                    problem = f"a line of more than {MAX_RECORD_BYTES >> 20} MiB"
                if problem := problem or length_problem(value[self.text_key]):
                    raise _changed(path, begin, problem)
                yield begin, position, value

    def _add(self, batch: Batch, text: str, record: Mapping[str, Any]) -> None:
        done, number, marks = 0, len(batch.texts), len(batch.markup)
        for begin, end in (record.get(SPANS_KEY) or ()) if self.markup else ():
            if (token := self.markup.get(text[begin:end])) is None:
                continue  # a name of no token is ordinary text
            if done < begin:
                batch.pieces.append(text[done:begin])
            batch.markup.append((number, len(batch.pieces), token))
            done = end
        if done < len(text):
            batch.pieces.append(text[done:] if done else text)
        batch.texts.append(text)
        batch.ends.append(len(batch.pieces))
        batch.ids.append(document_map.hashed(document_map.identity(record, text)))
        batch.sources.append(str(record.get(SOURCE_KEY, "")))
        batch.literals += self.names.count(text) - (len(batch.markup) - marks)


def _changed(path: Path, begin: int, problem: str) -> TaskError:
    """Return the error about the line that begins at a byte."""
    line, left = 1, begin
    with path.open("rb") as file:
        while left and (block := file.read(min(left, BLOCK_BYTES))):
            line += block.count(b"\n")
            left -= len(block)
    remove = f"`rm {shlex.quote(str(path))}`"
    hint = f"the shard was changed after curate wrote it; {remove}, then {RESUME}"
    return TaskError(f"{path}:{line}: {problem}", hint)
