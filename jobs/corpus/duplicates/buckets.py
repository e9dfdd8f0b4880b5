"""Rows on disk in buckets by the high bits of a hash, so that equal hashes meet in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jobs.contract.files import naming
from jobs.corpus.duplicates.groups import group_starts
from jobs.corpus.words import Rows

PENDING_BYTES = 1 << 24
"""Rows are held in memory up to this size, so that files are opened seldom."""


class Buckets:
    """Files of rows; the numbers of buckets grow with rank first, then with the hash."""

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: np.dtype[Any],
        count: int,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self.dtype = dtype
        self._report = report
        """Called before each bucket is merged."""
        self._folder = folder
        self._name = name
        self._count = count
        self._pending: dict[int, list[Rows]] = defaultdict(list)
        self._bytes = 0
        self._numbers: set[int] = set()

    def add(self, rows: Rows, hashes: Rows, ranks: Rows | int = 0) -> None:
        """Add rows to the buckets of their hashes."""
        slots = (hashes >> np.uint64(32)) * np.uint64(self._count) >> np.uint64(32)
        numbers = np.asarray(ranks, np.uint64) * np.uint64(self._count) + slots
        # of up to sixteen bits, numbers are sorted by radix
        numbers = numbers.astype(np.min_scalar_type(numbers.max(initial=0)))
        order = np.argsort(numbers, kind="stable")
        rows, numbers = rows[order], numbers[order]
        for begin, end in pairwise([*group_starts(numbers), len(rows)]):
            self._pending[int(numbers[begin])].append(rows[begin:end])
        self._bytes += rows.nbytes
        if self._bytes >= PENDING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append all rows held in memory to their files."""
        for number, parts in self._pending.items():
            path = self._path(number)
            with naming(path), path.open("ab") as file:
                for part in parts:
                    file.write(part.tobytes())
        self._numbers |= self._pending.keys()
        self._pending.clear()
        self._bytes = 0

    def read(self) -> Iterator[Rows]:
        """Yield the rows of each bucket in the order of buckets."""
        self.flush()
        for number in sorted(self._numbers):
            self._report()
            with naming(self._path(number)):
                rows = np.fromfile(self._path(number), self.dtype)
            yield rows

    def take(self) -> Iterator[Rows]:
        """Yield the rows of each bucket in the order of buckets, and remove its file."""
        for number, rows in zip(
            sorted(self._numbers | self._pending.keys()), self.read(), strict=True
        ):
            self._path(number).unlink()
            yield rows
        self._numbers.clear()

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number:05d}"
