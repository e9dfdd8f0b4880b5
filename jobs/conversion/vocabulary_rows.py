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
    """Yields the rows of a tensor with one row per token, then those of added tokens as
    ``VocabularySpec.new_rows`` defines them, then padding.

    Padding rows repeat the last row, as in Megatron-LLM's checkpoint_saver_megatron.py; they are
    masked wherever scores are computed.
    """

    def __init__(self, reader: TensorReader, vocabulary: VocabularySpec, copied: int) -> None:
        """Read in order from the first row.

        Args:
            reader: of the base model's tensor, at its begin.
            vocabulary: its ``base_size`` is the tensor's rows.
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

        base = self._vocabulary.base_size
        known = max(0, min(rows, base - self._next))
        parts = []
        if known:
            parts.append(self._reader.read(known))
            self._observe(parts[0])
        if known < rows:
            parts.append(self._new_row().expand(rows - known, -1))
        self._next += rows
        return parts[0] if len(parts) == 1 else torch.cat(parts)

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
