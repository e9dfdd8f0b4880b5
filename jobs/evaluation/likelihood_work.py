"""A score by likelihood in work: its items in batches, the share of a task, and what is stored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

from jobs.checkpoints.manifest import CheckpointRecord
from jobs.contract import done_markers, specs
from jobs.contract.corpus import benchmark_files
from jobs.contract.corpus.benchmark_files import BenchmarkOptions
from jobs.contract.errors import Stopped
from jobs.contract.files import sha256
from jobs.contract.stage_specs import EvaluateSpec
from jobs.contract.units import plural
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import items as item_store
from jobs.evaluation import likelihood_items, megatron_scorer
from jobs.evaluation.items import Answer, AnswerFile, ItemKey, digest_of
from jobs.evaluation.likelihood_items import Asked, LikelihoodItem
from jobs.evaluation.likelihood_prompts import Prompts
from jobs.evaluation.protocol import Likelihood
from jobs.evaluation.scoring import finite
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

if TYPE_CHECKING:
    import torch

STORE_SECONDS = 2.0
"""Answers of so much time are stored at once, and lost by a kill at most."""


@dataclass(frozen=True)
class Work:
    """All items of a score, the same for each of its tasks."""

    items: list[LikelihoodItem]
    batches: list[list[int]]
    """Places of the items that are computed together."""
    store: AnswerFile
    max_length: int
    """Most tokens that the model reads."""
    filler: int
    digests: dict[str, str]
    """Of the benchmark, of the prompts and of the checkpoint."""

    @classmethod
    def plan(
        cls,
        context: Context,
        asked: Sequence[Asked],
        prompts: Prompts,
        encoder: Encoder,
        record: CheckpointRecord,
    ) -> Work:
        """Encode all items and put them into batches.

        Raises:
            TaskError: an option has no token, or more than the model reads.
        """
        spec = cast(EvaluateSpec, context.task.spec)
        max_length = spec.seq_length or record.as_trained(spec.model).seq_length
        items = likelihood_items.encode(asked, prompts, encoder)
        likelihood_items.require_options(items, spec.path, max_length)
        batches = megatron_scorer.batches(
            [item.prompt for item in items],
            [item.options for item in items],
            max_length=max_length,
            batch_size=spec.batch_size,
        )
        digests = {
            "benchmark": benchmark_digest(Path(spec.path), spec.kind, spec.options),
            "prompts": digest_of([item.digest for item in items]),
            "checkpoint": record.manifest,
        }
        decisive = (spec.device, spec.precision, asdict(spec.parallel), max_length, batches)
        key = digest_of(digests, *decisive)
        store = AnswerFile(context.path(spec.output_dir), key)
        return cls(items, batches, store, max_length, encoder.eod, digests)

    @cached_property
    def expected(self) -> dict[ItemKey, str]:
        """Return the digest of the prompt of each item."""
        return {item.asked.key: item.digest for item in self.items}

    @property
    def truncated(self) -> int:
        """Return the prompts that have more tokens than the model reads."""
        return sum(
            megatron_scorer.is_truncated(item.prompt, item.options, self.max_length)
            for item in self.items
        )

    def share_size(self, context: Context) -> int:
        """Return the items of the task's share."""
        spec = cast(EvaluateSpec, context.task.spec)
        return sum(map(len, item_store.share(self.batches, spec.part, spec.parts)))

    def to_do(self, context: Context) -> list[int]:
        """Return the batches that the task has to answer: those of its share that are not
        answered, and those of shares whose tasks have ended and whose answers were lost since.
        """
        spec = cast(EvaluateSpec, context.task.spec)
        answers = self.store.read().answers
        left = [
            number
            for number, batch in enumerate(self.batches)
            if any(self.items[place].asked.key not in answers for place in batch)
        ]
        parts = {number % spec.parts for number in left} - {spec.part}
        ended = {part for part in parts if has_ended(context, part)}
        return [number for number in left if number % spec.parts in {spec.part, *ended}]

    @staticmethod
    def answers(
        items: Sequence[LikelihoodItem], found: Sequence[Sequence[Likelihood]]
    ) -> list[Answer]:
        """Return the answers to some items.

        Raises:
            TaskError: a log-likelihood is not finite; no such answer is ever stored.
        """
        answers = [
            Answer(*item.asked.key, item.digest, {"loglikelihoods": [one.value for one in values]})
            for item, values in zip(items, found, strict=True)
        ]
        for answer in answers:
            finite(answer)
        return answers


def has_ended(context: Context, part: int) -> bool:
    """Return whether the task of another share of the same score has finished."""
    spec = cast(EvaluateSpec, context.task.spec)
    index = context.task.index - spec.part + part
    digest = specs.digest(replace(spec, part=part))
    return done_markers.is_done(context.run, context.task.stage, index, digest)


def benchmark_digest(path: Path, kind: str, options: BenchmarkOptions) -> str:
    """Return the SHA-256 of a benchmark's file; of several, that of the lines that ``sha256sum``
    prints of their names.
    """
    files = benchmark_files.files(path, kind, options)
    if len(files) == 1:
        return sha256(files[0])
    import hashlib

    lines = [f"{sha256(file)}  {file.name}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Recorder:
    """Stores answers every few seconds, and at the end, whatever ends it; on rank 0 alone."""

    def __init__(self, context: Context, store: AnswerFile) -> None:
        self._store = store if context.rank == 0 else None
        self._answers: list[Answer] = []
        self._since = time.monotonic()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._write()

    def add(self, answers: Sequence[Answer]) -> None:
        """Take answers, and store them where the last ones are old."""
        self._answers += answers
        if time.monotonic() - self._since >= STORE_SECONDS:
            self._write()

    def _write(self) -> None:
        now = time.monotonic()
        if self._store and self._answers:
            self._store.append(self._answers, now - self._since)
        self._answers, self._since = [], now


class StopCheck:
    """The work behind a batch: all ranks stop if one has a request, and progress is reported."""

    def __init__(self, context: Context, total: int, device: torch.device) -> None:
        self._context = context
        self._device = device
        self._reported = 0.0
        self.total = total
        self.done = 0

    def after(self, count: int) -> None:
        """Record that ``count`` more items are answered.

        Raises:
            Stopped: a rank received a signal, or the run has a STOP file; all ranks stop together.
        """
        self.done += count
        done, total = max(0, self.done), self.total
        self._context.heart.beat(Phase.STEP, done)
        if self._stop_requested():
            raise Stopped(f"stopped after {done} of {plural(total, 'question')}")
        now = time.monotonic()
        if self._context.rank == 0 and (now - self._reported >= 1 or done == total):
            self._reported = now
            self._context.progress(done, total, "questions", phase="step")

    def _stop_requested(self) -> bool:
        requested = bool(self._context.stop) or self._context.run.is_stop_requested()
        if self._context.world_size == 1:
            return requested
        import torch

        flag = torch.tensor(int(requested), device=self._device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)
