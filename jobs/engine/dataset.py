"""Read training batches, from any position.

The order of samples depends on the tokens, the phases, the seed and the sequence length, never on
the number of ranks: with global batches of ``size`` samples, batch ``n`` begins with sample
``n x size``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import numpy
import torch

from jobs.contract import rundir
from jobs.contract.stage_specs import PretrainSpec
from jobs.data import sample_index, sample_order, tokenizer_file
from jobs.data.sample_reader import SampleReader
from jobs.data.survey import DatasetSurvey, refuse_outside
from jobs.engine import device as devices
from jobs.engine import micro_batch
from jobs.engine.prefetch import Prefetcher

with devices.quiet():
    from megatron.core import parallel_state


@dataclass(frozen=True)
class Role:
    """The part of a rank in reading global batches."""

    data_rank: int
    """Its place among the ranks that divide a global batch."""
    needs_tokens: bool
    """Its pipeline stage does; then one rank per tensor parallel group reads."""
    reads: bool
    takes_fingerprint: bool
    """True on one of the ranks that read the same samples."""

    @classmethod
    def of_rank(cls, *, all_stages: bool = False) -> Role:
        """Return the role of this rank in the layout.

        Args:
            all_stages: stages between embed and score nothing, but need the tokens all the same.
        """
        first, last = (
            parallel_state.is_pipeline_first_stage(),
            parallel_state.is_pipeline_last_stage(),
        )
        leads = parallel_state.get_tensor_model_parallel_rank() == 0
        needs = bool(first or last or all_stages)
        return cls(
            data_rank=parallel_state.get_data_parallel_rank(),
            needs_tokens=needs,
            reads=needs and leads,
            takes_fingerprint=bool(first and leads),
        )


@dataclass
class Windows:
    """The part of a global batch that one rank reads."""

    tokens: torch.Tensor
    """int32 ``[samples, length + 1]``: each sample, and the token after its last one."""
    fingerprint: list[int]
    """Of the samples; zeros on ranks that do not take it."""


@dataclass
class Batch:
    """This rank's part of a global batch."""

    micro_batches: list[dict[str, Any]]
    """What ``micro_batch.prepare`` returns, on the device; ``micro_batch.EMPTY`` on pipeline stages
    that need no tokens."""
    fingerprint: list[int]
    """Of the samples that this rank read."""
    shape: tuple[int, int]
    """Rows and tokens of each in a micro-batch, which on pipeline stages after the first is not
    read from tokens; of the longest where micro-batches differ."""


class Reads(Protocol):
    """This rank's part of the global batches of one split, of any kind of samples."""

    @property
    def batches(self) -> int:
        """Return the global batches of the split."""

    def batch(self, first_sample: int) -> Batch:
        """Return this rank's part of the global batch that begins with a sample."""

    def close(self) -> None:
        """End the thread that reads."""


@dataclass
class Split:
    """This rank's part of the global batches of one split.

    Tensor parallel ranks compute on the same samples: the first of them reads, in a thread and
    ahead of the step, and sends them to the others.
    """

    samples: SampleReader
    spec: PretrainSpec
    device: torch.device
    role: Role
    eod: int
    """The token that ends a document."""

    def __post_init__(self) -> None:
        self._prefetcher = Prefetcher(self.read, self._following)

    @property
    def batches(self) -> int:
        return self.samples.samples // self.spec.global_batch_size

    def batch(self, first_sample: int) -> Batch:
        """Return this rank's part of the global batch that begins with a sample. All tensor
        parallel ranks of a pipeline stage call it together.

        Raises:
            TaskError: a sample holds a token that the model does not have.
        """
        size = self.spec.micro_batch_size
        count = self.spec.global_batch_size // (size * self.spec.parallel.data)
        length = self.samples.length_of(first_sample)
        packed = self.spec.reset_attention_mask  # micro-batches are one row
        shape = (1, size * length) if packed else (size, length)
        if not self.role.needs_tokens:
            return Batch([micro_batch.EMPTY] * count, [0, 0], shape)
        taken = [0, 0]
        if self.role.reads:
            windows = self._prefetcher.take(first_sample)
            taken = windows.fingerprint
            tokens = windows.tokens.to(self.device, non_blocking=True)
        else:
            read = (size * count, length + 1)
            tokens = torch.empty(read, dtype=torch.int32, device=self.device)
        if self.spec.parallel.tensor > 1:
            source = parallel_state.get_tensor_model_parallel_src_rank()
            group = parallel_state.get_tensor_model_parallel_group()
            torch.distributed.broadcast(tokens, source, group)
        rows = torch.split(tokens.long(), size)
        return Batch([self._prepare(part) for part in rows], taken, shape)

    def _prepare(self, rows: torch.Tensor) -> dict[str, Any]:
        inputs, labels = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
        return micro_batch.prepare(inputs, labels, self.eod, self.spec)

    def read(self, first_sample: int) -> Windows:
        """Read this rank's samples of the global batch that begins with a sample."""
        size = self.spec.micro_batch_size
        stride = size * self.spec.parallel.data
        sums = [0, 0]
        windows = []
        for position in range(size * self.role.data_rank, self.spec.global_batch_size, stride):
            start = first_sample + position
            read = numpy.stack([self.samples[number] for number in range(start, start + size)])
            vocabulary, where = self.spec.model.vocab_size, f"a sample from {start} on"
            refuse_outside(int(read.min()), int(read.max()), vocabulary, where)
            if self.role.takes_fingerprint:
                tokens = numpy.ascontiguousarray(read[:, :-1], dtype=numpy.int32)
                part = sample_order.fingerprint(tokens, position)
                sums = sample_order.add_fingerprints(sums, part)
            windows.append(read)
        rows = torch.from_numpy(numpy.concatenate(windows, dtype=numpy.int32))
        return Windows(rows if devices.is_cpu(self.device) else rows.pin_memory(), sums)

    def close(self) -> None:
        """End the thread."""
        self._prefetcher.close()

    def _following(self, first_sample: int) -> int | None:
        """Return the first sample of the batch that is likely to be read after another."""
        size = self.spec.global_batch_size
        after = first_sample + size
        return after if after + size <= self.samples.samples else None


@dataclass
class Splits:
    """The samples to train and to validate on."""

    train: Reads
    validation: Mapping[int, Mapping[str, Reads]]
    """By sequence length and name of the corpus; without validation tokens or batches of none."""
    device: torch.device

    def close(self) -> None:
        """End the threads that read."""
        for split in chain([self.train], *(found.values() for found in self.validation.values())):
            split.close()


def open_splits(
    run: rundir.RunDir, spec: PretrainSpec, datasets: DatasetSurvey, device: torch.device
) -> Splits:
    """Open the training and validation samples that the stage ``index`` has written.

    Documents are packed with their end-of-document tokens. ``micro_batch`` makes the masks between
    them, of which the released MEDITRON models had none (epfLLM/Megatron-LLM, gpt_dataset.py).

    Raises:
        TaskError: they are missing, incomplete or of other tokens or settings.
    """
    devices.decide_once(lambda: sample_index.require(run, spec, datasets))
    eod = devices.decide_once(lambda: _end_of_document(run, spec))
    role = Role.of_rank(all_stages=spec.reset_attention_mask or spec.reset_position_ids)
    unmarked = replace(role, takes_fingerprint=False)
    train, *others = sample_index.read(run, spec, datasets)
    validation: dict[int, dict[str, Split]] = {spec.length_of(phase): {} for phase in spec.phases}
    for samples in others:
        split = Split(samples, spec, device, unmarked, eod)
        validation[samples.length_of(0)][samples.corpus] = split
    return Splits(Split(train, spec, device, role, eod), validation, device)


def _end_of_document(run: rundir.RunDir, spec: PretrainSpec) -> int:
    """Return the id of the token that ends a document, from the run's tokenizer."""
    tokenizer_file.require_unchanged(run, spec.tokenizer)
    table = tokenizer_file.require_tokens(spec.tokenizer, run.path(spec.tokenizer.path))
    return table.ids[spec.tokenizer.vocabulary.eod_token]
