"""Read the rows of a finetuning's global batches as inputs of forward passes.

Token ``j`` of a row, from 1 on, is predicted from those before it. It weighs 1 in the loss from the
beginning of the answer on, before that ``prompt_loss_weight``, and padding weighs 0. Weights are
whole numbers in proportion, of which averages are exact (``weight_parts``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy
import torch

from jobs.contract.stage_specs import BY_TOKENS, WEIGHT_PARTS, FinetuneSpec
from jobs.data import sample_order
from jobs.data.survey import refuse_outside
from jobs.engine import device as devices
from jobs.engine import micro_batch
from jobs.engine.dataset import Batch, Role
from jobs.engine.kinds import row_layout
from jobs.engine.kinds.rows import Order, Rows
from jobs.engine.prefetch import Prefetcher

with devices.quiet():
    from megatron.core import parallel_state

PARTS = 3
"""Arrays of a micro-batch: tokens, labels, weights."""


def weight_parts(prompt_loss_weight: float) -> tuple[int, int]:
    """Return the weights of a prompt's and of an answer's token, as the smallest whole numbers."""
    parts = Fraction(prompt_loss_weight).limit_denominator(WEIGHT_PARTS)
    return parts.numerator, parts.denominator


class MicroBatch(NamedTuple):
    """The rows of a micro-batch, and its shape."""

    places: list[int]
    """Of the rows in the global batch."""
    rows: list[int]
    """Their numbers in the split."""
    shape: tuple[int, int]
    starts: list[int]
    """Where its rows, and padding behind them, begin in the only row of a packed one."""


@dataclass
class RowWindows:
    """The part of a global batch that one rank reads."""

    content: torch.Tensor
    """int32: of each micro-batch its tokens, labels and weights."""
    fingerprint: list[int]


@dataclass
class RowSplit:
    """This rank's part of the global batches of one split of rows.

    Tensor parallel ranks compute on the same rows: the first of them reads, in a thread and ahead
    of the step, and sends them to the others. What rows a micro-batch has every rank knows from the
    lengths of rows.
    """

    rows: Rows
    order: Order
    batches: int
    """Global batches of the split."""
    spec: FinetuneSpec
    device: torch.device
    role: Role
    pad: int
    """The token that fills rows up."""

    def __post_init__(self) -> None:
        self._prefetcher = Prefetcher(self.read, self._following)
        parallel = self.spec.parallel
        divides = parallel.tensor if parallel.sequence_parallel else 1
        self._multiple = math.lcm(row_layout.ROUND, divides)
        self._weights = weight_parts(self.spec.prompt_loss_weight)

    def batch(self, first_sample: int) -> Batch:
        """Return this rank's part of the global batch that begins with a sample. All tensor
        parallel ranks of a pipeline stage call it together.

        Raises:
            TaskError: a row holds a token that the model does not have.
        """
        divided = self.divide(first_sample)
        largest = max((part.shape for part in divided), key=math.prod)
        if not self.role.needs_tokens:
            return Batch([self._without_tokens(part) for part in divided], [0, 0], largest)
        taken = [0, 0]
        if self.role.reads:
            windows = self._prefetcher.take(first_sample)
            taken = windows.fingerprint
            content = windows.content.to(self.device, non_blocking=True)
        else:
            size = PARTS * sum(math.prod(part.shape) for part in divided)
            content = torch.empty(size, dtype=torch.int32, device=self.device)
        if self.spec.parallel.tensor > 1:
            source = parallel_state.get_tensor_model_parallel_src_rank()
            group = parallel_state.get_tensor_model_parallel_group()
            torch.distributed.broadcast(content, source, group)
        sizes = [PARTS * math.prod(part.shape) for part in divided]
        pieces = zip(divided, torch.split(content, sizes), strict=True)
        return Batch([self._prepared(*piece) for piece in pieces], taken, largest)

    def divide(self, first_sample: int) -> list[MicroBatch]:
        """Return this rank's micro-batches of the global batch that begins with a sample."""
        spec = self.spec
        numbers = self.order.take(first_sample, spec.global_batch_size)
        read = (self.rows.lengths[numbers] - 1).tolist()
        virtual = spec.parallel.virtual > 1
        even = spec.parallel.pipeline if virtual else 1
        grid = row_layout.Grid(spec.micro_batch_size, spec.parallel.data, even)
        if spec.packing:
            capacity = spec.micro_batch_size * spec.model.seq_length
            everything = row_layout.packed(read, grid, capacity)
        else:
            by_length = spec.loss_average == BY_TOKENS  # another average depends on the division
            everything = row_layout.side_by_side(read, grid, by_length=by_length)
        longest = max(sum(read[place] for place in part) for rank in everything for part in rank)
        return [
            self._micro_batch(places, numbers, read, longest)
            for places in everything[self.role.data_rank]
        ]

    def _micro_batch(
        self, places: list[int], numbers: Any, read: Sequence[int], longest: int
    ) -> MicroBatch:
        """Return a micro-batch; packed ones are all as long as the longest of any rank."""
        rows = [int(numbers[place]) for place in places]
        if not self.spec.packing:
            length = row_layout.rounded(max(read[place] for place in places), self._multiple)
            return MicroBatch(places, rows, (len(places), length), [])
        length = row_layout.rounded(longest, self._multiple)
        ends = numpy.cumsum([0, *(read[place] for place in places)]).tolist()
        padding = range(ends[-1], length, self.spec.model.seq_length)
        return MicroBatch(places, rows, (1, length), [*ends[:-1], *padding])

    def _without_tokens(self, part: MicroBatch) -> dict[str, Any]:
        return {**micro_batch.EMPTY, "boundaries": self._boundaries(part)}

    def _prepared(self, part: MicroBatch, content: torch.Tensor) -> dict[str, Any]:
        tokens, labels, weights = content.view(PARTS, *part.shape)
        return {
            **self._without_tokens(part),
            "tokens": tokens.long(),
            "labels": labels.long(),
            "scored": weights,
        }

    def _boundaries(self, part: MicroBatch) -> torch.Tensor | None:
        if not self.spec.packing:
            return None
        bounds = [*part.starts, part.shape[1]]
        return torch.tensor(bounds, dtype=torch.int32).to(self.device, non_blocking=True)

    def read(self, first_sample: int) -> RowWindows:
        """Read this rank's rows of the global batch that begins with a sample."""
        sums = [0, 0]
        parts = []
        for part in self.divide(first_sample):
            content = numpy.zeros((PARTS, *part.shape), dtype=numpy.int32)
            content[:2] = self.pad
            for at, (place, number) in enumerate(zip(part.places, part.rows, strict=True)):
                row = self.rows[number].astype(numpy.int32)
                vocabulary, where = self.spec.model.vocab_size, f"row {number}"
                refuse_outside(int(row.min()), int(row.max()), vocabulary, where)
                if self.role.takes_fingerprint:
                    found = sample_order.fingerprint(row[None], place)
                    sums = sample_order.add_fingerprints(sums, found)
                line, begin = (0, part.starts[at]) if self.spec.packing else (at, 0)
                self._fill(content[:, line, begin : begin + len(row) - 1], number, row)
            parts.append(content.reshape(-1))
        whole = torch.from_numpy(numpy.concatenate(parts))
        return RowWindows(whole if devices.is_cpu(self.device) else whole.pin_memory(), sums)

    def _fill(self, place: Any, number: int, row: Any) -> None:
        """Write the tokens, labels and weights of a row."""
        prompt, answer = self._weights
        place[0], place[1] = row[:-1], row[1:]
        predicted = numpy.arange(1, len(row))
        place[2] = numpy.where(predicted < self.rows.answers[number], prompt, answer)

    def close(self) -> None:
        """End the thread."""
        self._prefetcher.close()

    def _following(self, first_sample: int) -> int | None:
        """Return the first sample of the batch that is likely to be read after another."""
        after = first_sample + self.spec.global_batch_size
        return after if after < self.batches * self.spec.global_batch_size else None
