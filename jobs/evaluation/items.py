"""Answers of a model to the items of a benchmark: stored one by one, shared by all tasks.

A score of one benchmark and one checkpoint may be the work of several array tasks. They append to
one file of its folder, ``answers-<key>.jsonl``, under a lock and with fsync. A line is a block: the
first 16 digits of the SHA-256 of the rest of the line, a space, and

    {"answers": [[id, seed, sample, prompt, payload], …], "seconds": 1.25}

A line that a kill or a full disk cut short does not have its digest and is skipped, so that at most
its answers are computed again. A record is an ``Answer``: ``id`` of the question, ``seed`` of the
demonstrations (0 without), ``sample`` (number of a sampled generation or of a permutation of the
options, 0 for the only one), ``prompt`` (digest of what was asked, ``digest_of``), and ``payload``:
for likelihoods ``{"loglikelihoods": […], "tokens": […]}``, for generations tokens, text and finish
reason.

``key`` names all that decides an answer beside its prompt (``key_of``): the checkpoint, the
precision, the backend and its flags. Answers of another checkpoint are in another file and never
joined. Every task reads the file when its own share is done; the one that finds all answers reduces
them to results. Two that end at once write the same bytes, since they read the same answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.files import append_lines, make_folder, parse_json

DIGITS = 16
"""Hex digits of a block's digest."""


class ItemKey(NamedTuple):
    """The identity of one answer within a score."""

    id: str
    """Of the question."""
    seed: int = 0
    """Of the demonstrations; 0 without."""
    sample: int = 0
    """Number of a sampled generation, or of a permutation of the options."""


@dataclass(frozen=True)
class Answer:
    """The answer of a model to one item."""

    id: str
    seed: int
    sample: int
    prompt: str
    """Digest of what was asked (``digest_of``)."""
    payload: dict[str, Any]

    @property
    def key(self) -> ItemKey:
        return ItemKey(self.id, self.seed, self.sample)


class Stored(NamedTuple):
    """The answers of a file, and how long computing them took, summed over tasks."""

    answers: dict[ItemKey, Answer]
    seconds: float


def digest_of(*asked: Any) -> str:
    """Return the SHA-256 (hex) of what was asked: values that JSON holds."""
    content = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


class AnswerFile:
    """The answers of one score, which several tasks append to."""

    def __init__(self, folder: Path, key: str) -> None:
        """Name the file of a key in the folder of a result; it need not exist."""
        self.path = folder / f"answers-{key[:DIGITS]}.jsonl"

    def read(self) -> Stored:
        """Return the answers of all whole blocks; of two to one item the first."""
        found: dict[ItemKey, Answer] = {}
        seconds = []
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            if (block := checked(line)) is None:
                continue
            answers = [Answer(*fields) for fields in block["answers"]]
            fresh = {answer.key: answer for answer in answers if answer.key not in found}
            if fresh:
                seconds.append(block["seconds"])
            found.update(fresh)
        return Stored(found, sum(seconds))

    def append(self, answers: Iterable[Answer], seconds: float) -> None:
        """Append a block.

        Raises:
            OSError: the file cannot be written.
        """
        block = {"answers": [astuple(answer) for answer in answers], "seconds": round(seconds, 3)}
        body = json.dumps(block, ensure_ascii=False, separators=(",", ":"))
        make_folder(self.path.parent)
        append_lines(self.path, [f"{_digest(body.encode())} {body}"])

    def remove_others(self) -> None:
        """Remove the answers of other keys, of which no result will be made any more."""
        for path in self.path.parent.glob("answers-*.jsonl"):
            if path != self.path:
                path.unlink(missing_ok=True)


def checked(line: bytes) -> dict[str, Any] | None:
    """Return the block of a line; None where the line is not whole."""
    digest, _, body = line.partition(b" ")
    if digest.decode("ascii", "replace") != _digest(body):
        return None
    block: dict[str, Any] = parse_json(body)
    return block


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:DIGITS]


def missing(expected: Mapping[ItemKey, str], answers: Mapping[ItemKey, Answer]) -> list[ItemKey]:
    """Return the items without an answer, in their order."""
    return [key for key in expected if key not in answers]


def join(
    expected: Mapping[ItemKey, str], answers: Mapping[ItemKey, Answer], where: Path
) -> list[Answer]:
    """Return the answer to each item, in the order of the items.

    Args:
        expected: the digest of each item's prompt.
        answers: of ``AnswerFile.read``, to all of these items.
        where: the file that holds them, for messages.

    Raises:
        TaskError: an answer was given to another prompt than the item's.
    """
    require_same_prompts(expected, answers, where)
    return [answers[key] for key in expected]


def require_same_prompts(
    expected: Mapping[ItemKey, str], answers: Mapping[ItemKey, Answer], where: Path
) -> None:
    """Refuse answers, to some or all of the items, of which one was given to another prompt.

    Raises:
        TaskError: naming the file and the item.
    """
    for key, digest in expected.items():
        if key in answers and answers[key].prompt != digest:
            raise TaskError(
                f"{where}: the answer to {key.id} was given to another prompt than this one's",
                "remove the file, so that its items are answered again",
            )


def share(batches: Sequence[Any], part: int, parts: int) -> Sequence[Any]:
    """Return the batches of one task among ``parts``: what is computed together never depends on
    the number of tasks, so that no sum of floating-point numbers does.
    """
    return batches[part::parts]
