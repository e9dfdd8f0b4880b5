"""Cut the files of a corpus into pieces of work.

The pieces follow from the files and their sizes alone, so that any number of tasks gives the same
bytes: a task takes every n-th of them. They are numbered by rank of the source, path, and place
in the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.errors import RESUME, TaskError
from jobs.data.readers import unreadable

MIN_PIECE_BYTES = 1 << 20
MAX_PIECE_BYTES = 1 << 28
PIECES = 256
"""Pieces of a corpus between the two limits; a compressed file is never cut."""


FOLDER = "pieces"
"""Of the pieces within a corpus, until its manifest is written."""


@dataclass(frozen=True)
class Part:
    """One file, or the range of one."""

    path: str
    size: int
    """Bytes of the whole file."""
    mtime_ns: int
    begin: int
    end: int
    """The records whose lines begin from ``begin`` on and before ``end``."""

    @property
    def bounds(self) -> tuple[int, int | None]:
        """Return the range as readers take it: that of a whole file has no end."""
        return self.begin, None if self.begin == 0 and self.end == self.size else self.end


@dataclass(frozen=True)
class Piece:
    """Parts of one source that are read one behind the other."""

    number: int
    source: int
    """Rank of the source: its place in the list."""
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        return sum(part.end - part.begin for part in self.parts)

    def described(self) -> dict[str, Any]:
        """Return what decides the content of the piece, as plain JSON values."""
        return {"source": self.source, "parts": [asdict(part) for part in self.parts]}


class SourceFiles(NamedTuple):
    """The files of all sources, as they are now."""

    pieces: list[Piece]
    ignored: list[str]
    """Files of kinds that are not read."""

    @property
    def paths(self) -> list[str]:
        """Return every file once, in the order in which they are read."""
        return list(dict.fromkeys(part.path for piece in self.pieces for part in piece.parts))

    def of_task(self, part: int, parts: int) -> list[Piece]:
        """Return the pieces of one task of several."""
        return self.pieces[part::parts]


def find_pieces(rules: CorpusRules) -> SourceFiles:
    """Return the pieces of a corpus. A file that several sources name belongs to the first.

    Raises:
        TaskError: a source is missing, unreadable or of an unknown kind.
    """
    from jobs.corpus.formats import read

    files: list[tuple[int, Part]] = []
    ignored: dict[str, None] = {}
    known: set[Path] = set()
    for rank, source in enumerate(rules.sources):
        found, odd = read.find(source)
        ignored.update(dict.fromkeys(map(str, odd)))
        files += [(rank, _whole(path)) for path in found if path not in known]
        known.update(found)
    total = sum(part.size for _, part in files)
    limit = min(max(total // PIECES, MIN_PIECE_BYTES), MAX_PIECE_BYTES)
    groups = list(_groups(files, limit))
    pieces = [Piece(number, rank, tuple(parts)) for number, (rank, parts) in enumerate(groups)]
    return SourceFiles(pieces, [name for name in ignored if Path(name) not in known])


def _whole(path: Path) -> Part:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from error
    return Part(str(path), stat.st_size, stat.st_mtime_ns, 0, stat.st_size)


def _groups(files: Iterable[tuple[int, Part]], limit: int) -> Iterator[tuple[int, list[Part]]]:
    """Yield the parts of each piece with the rank of their source."""
    rank, size = 0, 0
    group: list[Part] = []
    for source, whole in files:
        for part in cut(whole, limit):
            length = part.end - part.begin
            if group and (source != rank or size + length > limit):
                yield rank, group
                group, size = [], 0
            rank, size = source, size + length
            group.append(part)
    if group:
        yield rank, group


def cut(whole: Part, limit: int) -> list[Part]:
    """Return the ranges of a file, equally long; one that cannot be cut is one range."""
    if not whole.path.lower().endswith(".jsonl") or whole.size <= limit:
        return [whole]
    count = -(-whole.size // limit)
    bounds = [whole.size * number // count for number in range(count + 1)]
    return [
        Part(whole.path, whole.size, whole.mtime_ns, begin, end) for begin, end in pairwise(bounds)
    ]


def require_unchanged(part: Part) -> None:
    """Refuse a file that has changed since its size was taken, as one that is still being written.

    Raises:
        TaskError: its size or modification time is another now.
    """
    now = _whole(Path(part.path))
    if (now.size, now.mtime_ns) != (part.size, part.mtime_ns):
        raise _changed(part)


def require_same(piece: Piece, recorded: dict[str, Any]) -> None:
    """Refuse a piece that another task has read from other files.

    Raises:
        TaskError: a file has changed since.
    """
    if recorded != piece.described():
        raise _changed(piece.parts[0])


def _changed(part: Part) -> TaskError:
    return TaskError(
        f"{part.path}: the files of the corpus have changed while it was curated",
        f"leave them as they are until the curation has ended, then {RESUME}",
    )
