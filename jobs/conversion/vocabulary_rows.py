"""The rows of an embedding or output layer beyond those of the base model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.contract.stage_specs import VocabularySpec
from jobs.conversion.hf_reader import TensorReader

if TYPE_CHECKING:
    import torch

MEAN = "mean"
COPY = "copy:"


class GrowingVocabulary:
    """Yields the rows of a base model's tokens, then those of added tokens as
    ``VocabularySpec.new_rows`` defines them, then the unused rows of the base model that added
    tokens do not take, then padding.

    The rule replaces unused rows, which the base model has not trained. Padding rows follow it too;
    they are masked wherever scores are computed.
    """

    def __init__(self, reader: TensorReader, vocabulary: VocabularySpec, copied: int) -> None:
        """Read in order from the first row.

        Args:
            reader: of the base model's tensor, at its begin.
            vocabulary: its ``base_rows`` are the tensor's rows.
            copied: id of the token that ``copy:`` names; -1 without.
        """
        self._reader = reader
        self._vocabulary = vocabulary
        self._copied = copied
        self._next = 0
        self._source: torch.Tensor | None = None
        """The row that new rows repeat."""
        self._sum: torch.Tensor | None = None

    def read(self, rows: int) -> torch.Tensor:
        """Return the next rows.

        Raises:
            OSError, EOFError: as ``TensorReader.read``.
        """
        import torch

        parts, stop = [], self._next + rows
        while self._next < stop:
            parts.append(self._segment(stop))
            self._next += len(parts[-1])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _segment(self, stop: int) -> torch.Tensor:
        """Return the next rows of one kind, up to ``stop``."""
        vocabulary, start = self._vocabulary, self._next
        if start < vocabulary.base_size:
            rows = self._reader.read(min(stop, vocabulary.base_size) - start)
            self._observe(rows)
            return rows
        if start < vocabulary.size:
            stop = min(stop, vocabulary.size)
            if start < vocabulary.base_rows:  # read all the same, for the digest of the tensor
                self._reader.read(min(stop, vocabulary.base_rows) - start)
        elif start < vocabulary.base_rows:
            return self._reader.read(min(stop, vocabulary.base_rows) - start)
        return self._new_row().expand(stop - start, -1)

    def _observe(self, rows: torch.Tensor) -> None:
        """Keep what new rows are made of."""
        import torch

        rule = self._vocabulary.new_rows
        if rule == MEAN:
            total = rows.sum(dim=0, dtype=torch.float64)
            self._sum = total if self._sum is None else self._sum + total
        elif not rule.startswith(COPY):
            self._source = rows[-1].clone()
        elif self._next <= self._copied < self._next + len(rows):
            self._source = rows[self._copied - self._next].clone()
        self._dtype = rows.dtype

    def _new_row(self) -> torch.Tensor:
        if self._source is None:
            if self._sum is None:
                raise ValueError(f"no row for {self._vocabulary.new_rows!r}")
            mean: torch.Tensor = self._sum / self._vocabulary.base_size
            self._source = mean.to(self._dtype)
        return self._source
