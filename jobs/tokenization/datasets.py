"""Indexed datasets with their document maps, written from the documents of a stretch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.files import sampled_sha256
from jobs.contract.rundir import RunDir
from jobs.data import document_map
from jobs.data.indexed_dataset import IndexedWriter

if TYPE_CHECKING:
    import numpy


class Dataset:
    """One indexed dataset and its document map, under temporary names until it is published."""

    def __init__(self, prefix: Path, dtype: str, begin: int) -> None:
        self.tokens = IndexedWriter(prefix, dtype)
        self.sources = document_map.map_file(prefix)
        self.begin = self.end = begin
        """Of its lines in the shard, in bytes."""

    def seal(self, end: int) -> None:
        """Write everything to the disk; nothing can be added after it."""
        self.end = end
        self.sources.seal()
        self.tokens.seal()

    def publish(self) -> None:
        """Rename the files."""
        self.sources.publish()
        self.tokens.publish()

    def discard(self) -> None:
        """Remove the files that were not published."""
        self.tokens.discard()
        self.sources.discard()

    def describe(self, run: RunDir, shard: str) -> list[dict[str, Any]]:
        """Return the published files as the done marker records them: with the lines that the
        ``.bin`` was made of, and the digest of its blocks by which training recognises it.
        """
        binary, index = self.tokens.parts
        facts = {
            "sampled_sha256": sampled_sha256(binary.path),
            "shard": shard,
            "begin": self.begin,
            "end": self.end,
            "documents": self.tokens.documents,
            "tokens": self.tokens.tokens,
        }
        return [binary.describe(run) | facts, index.describe(run), self.sources.describe(run)]


@dataclass
class StretchWriter:
    """The datasets of one stretch: one, or more where the first would have too many tokens.

    They end with whole documents, wherever batches end.
    """

    prefix: Path
    """Of the first dataset."""
    dtype: str
    begin: int
    most: int
    """Tokens of a dataset, unless its only document has more."""
    datasets: list[Dataset] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next(self.begin)

    def add(self, ids: numpy.ndarray, lengths: numpy.ndarray, sources: numpy.ndarray) -> None:
        """Append documents.

        Args:
            ids: of all of them, of the stored type ``[tokens]``.
            lengths: tokens of each, ``[documents]``.
            sources: entries of the document map, ``[documents]``.
        """
        ends = lengths.cumsum()
        first = written = 0
        while first < len(lengths):
            room = self.most - self.datasets[-1].tokens.tokens
            last = int(ends.searchsorted(written + room, side="right"))
            if last <= first:
                if self.datasets[-1].tokens.documents:
                    self._next(int(sources["byte"][first]))
                    continue
                last = first + 1
            self.datasets[-1].tokens.add(ids[written : ends[last - 1]], lengths[first:last])
            self.datasets[-1].sources.write(sources[first:last].tobytes())
            first, written = last, int(ends[last - 1])

    def seal(self, end: int) -> None:
        """End the last dataset where the stretch ends."""
        self.datasets[-1].seal(end)

    def publish(self) -> None:
        """Rename the files of all datasets."""
        for dataset in self.datasets:
            dataset.publish()

    def describe(self, run: RunDir, shard: str) -> list[dict[str, Any]]:
        """Return the published files as the done marker records them."""
        return [item for dataset in self.datasets for item in dataset.describe(run, shard)]

    def discard(self) -> None:
        """Remove the files that were not published."""
        for dataset in self.datasets:
            dataset.discard()

    def _next(self, begin: int) -> None:
        name = self.prefix.name
        if self.datasets:
            self.datasets[-1].seal(begin)
            name += (
                f"-{len(self.datasets):04d}" if "-" in name else f"-0000-{len(self.datasets):04d}"
            )
        self.datasets.append(Dataset(self.prefix.with_name(name), self.dtype, begin))

    def __iter__(self) -> Iterator[Dataset]:
        return iter(self.datasets)
