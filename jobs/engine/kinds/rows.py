"""Rows of unequal length, one conversation each, and the order in which a finetuning reads them.

Sample ``i`` is row ``permutation(seed, i // N)[i % N]`` of ``N`` rows: each epoch reads every row
once, in an order of its own that no layout and no number of steps changes. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.errors import RESUME, TaskError
from jobs.contract.stage_specs import FinetuneSpec
from jobs.contract.units import plural
from jobs.data.indexed_dataset import Index, map_file, read_index

if TYPE_CHECKING:
    import numpy

    Array = numpy.ndarray

TRAIN, VALIDATION = "train", "validation"
SUFFIXES = (".bin", ".idx", ".answers.npy")
KEPT_EPOCHS = 2
"""Orders that are kept: a batch may begin in one epoch and end in the next."""


@dataclass(frozen=True)
class Rows:
    """The rows of a split, and where the answer of each begins."""

    prefix: Path
    """Of the files, without suffix."""
    index: Index
    answers: Array
    """int32 ``[rows]``: the number of the answer's first token."""

    @classmethod
    def open(cls, prefix: Path) -> Rows:
        """Open the rows that the stage ``prepare`` has written; their tokens are not read.

        Raises:
            TaskError: a file is missing or damaged.
        """
        import numpy

        try:
            index = read_index(prefix.with_name(f"{prefix.name}.idx"))
            answers = numpy.load(prefix.with_name(f"{prefix.name}.answers.npy"))
        except (OSError, ValueError, EOFError) as error:
            reason = getattr(error, "strerror", None) or error
            message = f"{getattr(error, 'filename', None) or prefix}: {reason}"
            raise TaskError(f"{message}; the rows cannot be read", _AGAIN) from error
        if answers.shape != index.lengths.shape:
            raise TaskError(
                f"{prefix}: {plural(len(index.lengths), 'row')} and {len(answers)} answers", _AGAIN
            )
        return cls(prefix, index, answers)

    @property
    def lengths(self) -> Array:
        """Return the tokens of each row, int32."""
        return self.index.lengths

    def require(self, longest: int) -> None:
        """Refuse rows that cannot be trained on.

        Args:
            longest: tokens that the model reads of one; the last one is only predicted.

        Raises:
            TaskError: one is longer, or none of its tokens is an answer's that others precede.
        """
        for wrong, problem in (
            (self.lengths > longest + 1, f"more than {longest} tokens before its last"),
            (self.answers.clip(1) >= self.lengths, "no token that is scored"),
        ):
            if wrong.any():
                number = int(wrong.argmax())
                raise TaskError(
                    f"{self.prefix}: row {number} has {problem}",
                    f"prepare the rows again with the settings of this run, then {RESUME}",
                )

    def __getitem__(self, number: int) -> Array:
        """Return the tokens of a row, as they are stored."""
        begin = int(self.index.offsets[number]) // self.index.kind.itemsize
        return self._tokens[begin : begin + int(self.lengths[number])]

    @cached_property
    def _tokens(self) -> Array:
        import numpy

        content = map_file(self.prefix.with_name(f"{self.prefix.name}.bin"))
        return numpy.frombuffer(content, self.index.kind)


_AGAIN = f"{RESUME} makes them again"


class Order:
    """The rows that samples are, which count from 0 on and never end."""

    def __init__(self, rows: int, seed: int | None) -> None:
        """Order some rows.

        Args:
            rows: their number.
            seed: of the order of each epoch; None for the order of the file.
        """
        self.rows = rows
        self._seed = seed
        self._epochs: dict[int, Array] = {}

    def epoch(self, number: int) -> Array:
        """Return the rows of an epoch in their order."""
        import numpy

        if self._seed is None:
            return numpy.arange(self.rows)
        if number not in self._epochs:
            while len(self._epochs) >= KEPT_EPOCHS:
                del self._epochs[min(self._epochs)]
            state = numpy.random.RandomState([self._seed, number])
            self._epochs[number] = state.permutation(self.rows)
        return self._epochs[number]

    def take(self, first: int, count: int) -> Array:
        """Return the rows of some consecutive samples."""
        import numpy

        parts, stop = [], first + count
        while first < stop:
            epoch, place = divmod(first, self.rows)
            parts.append(self.epoch(epoch)[place : place + stop - first])
            first += len(parts[-1])
        return numpy.concatenate(parts)


class RowVolume:
    """The tokens and operations of a finetuning's steps: of its rows, without padding."""

    def __init__(self, spec: FinetuneSpec, lengths: Array, order: Order) -> None:
        self._spec = spec
        self._lengths = lengths.astype("i8")
        self._order = order
        self._before: dict[int, tuple[int, int]] = {}
        """Tokens, and squared lengths, of all steps before some steps."""

    def tokens(self, steps: int) -> int:
        return self._sums(steps)[0]

    def step_tokens(self, step: int) -> int:
        return self.tokens(step) - self.tokens(step - 1)

    def flops(self, step: int, *, attention: bool) -> float:
        """Return the operations of a step: attention is that of each row to itself."""
        model = self._spec.model
        (tokens, squares), before = self._sums(step), self._sums(step - 1)
        tokens, squares = tokens - before[0], squares - before[1]
        linear = model.flops_per_token(attention=False)
        quadratic = (model.flops_per_token() - linear) / model.seq_length
        return tokens * linear + (squares * quadratic if attention else 0.0)

    def _sums(self, steps: int) -> tuple[int, int]:
        """Return the tokens of the first steps, and the sum of their rows' squared lengths."""
        if steps not in self._before:
            epochs, rest = divmod(steps * self._spec.global_batch_size, self._order.rows)
            last = self._lengths[self._order.epoch(epochs)[:rest]]
            self._before[steps] = (
                epochs * int(self._lengths.sum()) + int(last.sum()),
                epochs * int((self._lengths**2).sum()) + int((last**2).sum()),
            )
        return self._before[steps]
