"""Read the tokens of a training's samples from its indexed datasets. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jobs.contract.errors import TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.units import plural
from jobs.data.indexed_dataset import Index, map_file, read_index
from jobs.data.sample_order import Stretch, TrainingOrder
from jobs.runtime.open_files import require_open_files

if TYPE_CHECKING:
    import numpy


FILES = 2
"""Files of a dataset, .idx and .bin, which are both mapped."""


class DocumentPlace(NamedTuple):
    """A document of a corpus as one of an indexed dataset."""

    dataset: int
    """In the corpus, from 0."""
    number: int
    """In the dataset, from 0."""


@dataclass(frozen=True)
class CorpusFiles:
    """The indexed datasets of a corpus, whose documents count from the first one's."""

    prefixes: Sequence[str]
    paths: Sequence[Path]
    """Without suffix."""
    _open: dict[int, numpy.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunDir, prefixes: Sequence[str]) -> CorpusFiles:
        """Return the files of the datasets with these prefixes."""
        return cls(prefixes, [run.path(prefix) for prefix in prefixes])

    @cached_property
    def indexes(self) -> list[Index]:
        """Return the content of each ``.idx``.

        Raises:
            TaskError: one is missing or damaged, or there are more than this node can open.
        """
        require_open_files(
            FILES * len(self.paths),
            f"reading {plural(len(self.paths), 'dataset')}",
            "raise the hard limit of open files on the nodes (`ulimit -Hn` shows it), or curate "
            "into fewer shards in a submission with --new",
        )
        return [_index(path) for path in self.paths]

    @cached_property
    def lengths(self) -> numpy.ndarray:
        """Return the tokens of each document, int32 ``[documents]``."""
        import numpy

        return numpy.concatenate(
            [numpy.empty(0, dtype=numpy.int32), *(index.lengths for index in self.indexes)]
        )

    @cached_property
    def _ends(self) -> numpy.ndarray:
        """Return the documents up to the end of each dataset."""
        import numpy

        return numpy.cumsum([len(index.lengths) for index in self.indexes])

    def place(self, document: int) -> DocumentPlace:
        """Return the dataset of a document."""
        dataset = int(self._ends.searchsorted(document, side="right"))
        return DocumentPlace(dataset, document - self.first(dataset))

    def first(self, dataset: int) -> int:
        """Return the first document of a dataset."""
        return int(self._ends[dataset - 1]) if dataset else 0

    def tokens(self, stretch: Stretch) -> numpy.ndarray:
        """Return the ids of a stretch, as they are stored.

        Raises:
            OSError, ValueError: the ``.bin`` is missing or empty.
        """
        dataset, number = self.place(stretch.document)
        index = self.indexes[dataset]
        begin = int(index.offsets[number]) // index.kind.itemsize + stretch.offset
        found: numpy.ndarray = self._binary(dataset)[begin : begin + stretch.tokens]
        return found

    def _binary(self, dataset: int) -> numpy.ndarray:
        import numpy

        if dataset not in self._open:
            path = self.paths[dataset]
            kind = self.indexes[dataset].kind
            content = map_file(path.with_name(f"{path.name}.bin"))
            self._open[dataset] = numpy.frombuffer(content, kind)
        return self._open[dataset]


def _index(path: Path) -> Index:
    try:
        return read_index(path.with_name(f"{path.name}.idx"))
    except OSError as error:
        message = f"{error.filename}: {error.strerror}; the index orders the samples"
        raise TaskError(message, "put it back, or make the tokens again") from error


class OrderedFiles(NamedTuple):
    """The samples of some corpora, and the datasets that hold their tokens."""

    order: TrainingOrder
    files: Mapping[str, CorpusFiles]


@dataclass(frozen=True)
class SampleReader:
    """The samples of a split: those of a training, or those to validate one corpus on."""

    corpus: str
    """Name of the corpus; empty for the training's, which mixes corpora."""
    samples: int
    length_of: Callable[[int], int]
    """Returns the tokens of a sample."""
    open: Callable[[], OrderedFiles]
    """Called once, when the first sample is read: many ranks read none."""

    @cached_property
    def opened(self) -> OrderedFiles:
        return self.open()

    def __getitem__(self, sample: int) -> numpy.ndarray:
        """Return a sample and the token after it, int64 ``[length + 1]``."""
        import numpy

        order, files = self.opened
        (drawn,) = order.take(sample, 1)
        parts = [files[drawn.corpus].tokens(stretch) for stretch in order.stretches(drawn)]
        return numpy.concatenate(parts, dtype=numpy.int64)
