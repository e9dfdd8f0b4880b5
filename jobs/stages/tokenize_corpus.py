"""Tokenize stage: turn JSONL shards into Megatron indexed datasets, with maps from their documents
to the lines of the shard. What is in a dataset, the shard alone decides, not the tasks.

An end-of-document token follows each document; a BOS token stands before it where the vocabulary
registry names one. Each stretch of a shard is published and recorded when it is whole, and stays
when the task is stopped or killed. No torch or megatron.core is imported, so that a task starts at
once. Memory holds two batches of documents and four bytes per document.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from jobs.contract import done_markers, rundir, specs
from jobs.contract.errors import FAILED, RESUME, Stopped, TaskError
from jobs.contract.files import sha256
from jobs.contract.stage_specs import TokenizeSpec
from jobs.data import document_map, tokenized, tokenizer_file
from jobs.data.indexed_dataset import index_dtype, stored
from jobs.runtime.context import Context
from jobs.tokenization import assemble, manifest, stretch_records
from jobs.tokenization import engine as engines
from jobs.tokenization.counts import Counts, merged, tokens_of_sources, words_and_bytes
from jobs.tokenization.datasets import StretchWriter
from jobs.tokenization.documents import Batch, Names, Reader
from jobs.tokenization.engine import Encoded, Engine, EngineData
from jobs.tokenization.stretch_records import PlannedStretch, StretchRecord
from jobs.tokenization.stretches import Stretch

if TYPE_CHECKING:
    import numpy


def run(context: Context) -> None:
    """Tokenize the task's stretches of the shards of its spec.

    Raises:
        TaskError: the tokenizer or a shard cannot be used as specified.
        Stopped: a stop was requested; the next attempt continues behind the finished stretches.
    """
    spec, run = cast(TokenizeSpec, context.task.spec), context.run
    tokenizer_file.set_threads(context.task.cpus_per_rank)
    recorded = {item["path"]: item for item in tokenized.curated(run)}
    shards = {name: require_input(run, name, recorded.get(name)) for name in spec.inputs}
    tokenizer = tokenizer_file.require_unchanged(run, spec.tokenizer)
    tools = Tools.load(spec)
    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(run, context.task.stage, context.task.index)
    made = tokenize_or_again(context, tools, shards)
    manifest.finish(run, spec, {**recorded, **shards}, tools.dtype)
    context.finish([*shards.values(), tokenizer], made.outputs, made.summary)


def tokenize_or_again(
    context: Context, tools: Tools, shards: Mapping[str, Mapping[str, Any]]
) -> Made:
    """Tokenize with the chosen engine; where gigatoken gives other ids than ``tokenizers`` on the
    way, or gave them in an earlier attempt, with the latter. Raises as ``tokenize``.
    """
    spec, run = cast(TokenizeSpec, context.task.spec), context.run
    outputs = zip(spec.inputs, spec.output_prefixes, strict=True)
    planned = list(stretch_records.plan(run, spec, outputs, shards, spec.part, spec.parts))
    try:
        if tools.engine.name == engines.GIGATOKEN:
            stretch_records.require_trust(run, spec)
        return tokenize(context, planned, tools)
    except engines.EngineDiffers as error:
        stretch_records.distrust(run, spec, error)
        return tokenize(context, planned, tools.without_gigatoken(spec, error))


def require_input(
    run: rundir.RunDir, name: str, recorded: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return a shard as the done marker records it.

    Args:
        recorded: as curate recorded it; its digest counts for the same size and time.

    Raises:
        TaskError: the shard cannot be read.
    """
    try:
        found = done_markers.describe_file(run, name, with_digest=False)
        same = recorded and all(found[key] == recorded.get(key) for key in found)
        digest = recorded.get("sha256") if recorded and same else None
        return found | {"sha256": digest or sha256(run.path(name))}
    except OSError as error:
        message = f"{run.path(name)}: the shard cannot be read ({error.strerror})"
        raise TaskError(message, f"{RESUME} writes the shards again") from error


@dataclass(frozen=True)
class Tools:
    """The reader and the encoder of a task, and the tokens to put around texts."""

    engine: Engine
    reason: str
    """Why the engine is not gigatoken, where it could be; else empty."""
    data: EngineData
    reader: Reader
    dtype: str
    """Of a stored token."""
    bos: int | None
    """Id of the token before each document; None where documents have none."""
    eod: int
    """Id of the token that ends a document."""
    unknown: int | None
    """Id of the token for what the vocabulary cannot express."""
    vocabulary: str
    """Digest of the registry."""

    @classmethod
    def load(cls, spec: TokenizeSpec) -> Tools:
        """Load the tokenizer and check that it fits the model.

        Raises:
            TaskError: the file is not a tokenizer.json, is not that of the vocabulary registry, or
                has more ids than the model; gigatoken is required and cannot be used.
        """
        table, content = tokenizer_file.require_content(spec.tokenizer)
        if table.size > spec.model_vocab_size:
            raise TaskError(
                f"{spec.tokenizer.path}: its vocabulary of {table.size} does not fit the model's "
                f"of {spec.model_vocab_size}",
                "raise model.vocab_size, or use the tokenizer made for the model",
            )
        registry = spec.tokenizer.vocabulary
        in_text = spec.special_tokens_in_text
        data = EngineData.of(content, registry, in_text)
        names = [name for name in engines.reserved(content, registry) if name in table.ids]
        try:
            choice = engines.choose(spec.engine, data, names)
        except TaskError as error:
            message = f"{spec.tokenizer.path}: {error.message}"
            raise TaskError(message, error.hint, error.code) from error
        markup = {} if in_text else {name: table.ids[name] for name in registry.added_tokens}
        unknown = content["model"].get("unk_token")
        return cls(
            choice.engine,
            choice.reason,
            data,
            Reader(spec.text_key, markup, Names(names), choice.engine.characters),
            index_dtype(table.size),
            table.ids[registry.bos_token] if registry.bos_token else None,
            table.ids[registry.eod_token],
            table.ids.get(unknown) if isinstance(unknown, str) else None,
            specs.digest(registry),
        )

    @property
    def compared(self) -> int:
        """Return the number of texts whose ids were compared with those of another engine."""
        return getattr(self.engine, "compared", 0)

    def without_gigatoken(self, spec: TokenizeSpec, error: engines.EngineDiffers) -> Tools:
        """Return the tools with which a task starts again after gigatoken gave other ids.

        Raises:
            TaskError: gigatoken is required.
        """
        reason = engines.unusable(error)
        if spec.engine == engines.GIGATOKEN:
            raise TaskError(reason, engines.HINT_AUTO) from error
        slow = engines.TokenizersEngine(self.data)
        reader = replace(self.reader, characters=slow.characters)
        return replace(self, engine=slow, reason=reason, reader=reader)


class Made(NamedTuple):
    """The files and the counts of a task."""

    outputs: list[dict[str, Any]]
    summary: dict[str, Any]


def tokenize(context: Context, planned: Sequence[PlannedStretch], tools: Tools) -> Made:
    """Make the stretches of the task that are not finished; return the files of all as the done
    marker records them, and the task's counts.

    Raises:
        TaskError: a record has no text, or a text that is too long.
        Stopped: a stop was requested.
        EngineDiffers: gigatoken gave other ids than ``tokenizers``.
    """
    spec = cast(TokenizeSpec, context.task.spec)
    progress = Progress(context, sum(item.bytes for item in planned))
    records: list[StretchRecord] = []
    counts = {name: Counts() for name in spec.inputs}
    for item in planned:
        record = stretch_records.read(context.run, item)
        if record is None or record.engine not in (tools.engine.name, engines.TOKENIZERS):
            record = make(context, item, tools, progress)
        records.append(record)
        counts[item.shard].add(found := merged([record.counts]))
        progress.finish(item.bytes, found.documents)
    summary = {
        **merged(map(Counts.to_json, counts.values())).to_json(),
        "shards": {name: found.to_json() for name, found in counts.items()},
        "bytes": progress.total,
        "dtype": tools.dtype,
        "vocabulary": tools.vocabulary,
        "engine": joined([record.engine for record in records] or [tools.engine.name]),
        "engine_reason": joined([record.engine_reason for record in records] or [tools.reason]),
        "compared": sum(record.compared for record in records),
        "seconds": sum(record.seconds for record in records),
    }
    return Made([item for record in records for item in record.files], summary)


def joined(texts: Iterable[str]) -> str:
    """Return the distinct texts, but for empty ones, as one text."""
    return "; ".join(sorted({*texts} - {""}))


def make(
    context: Context, planned: PlannedStretch, tools: Tools, progress: Progress
) -> StretchRecord:
    """Make, publish and record a stretch. Raises as ``tokenize``."""
    started, compared = time.monotonic(), tools.compared
    spec = cast(TokenizeSpec, context.task.spec)
    manifest.forget(context.run)
    lines, path = planned.lines, context.path(planned.prefix)
    writer = StretchWriter(path, tools.dtype, lines.begin, spec.shard_tokens)
    try:
        counts = encode_stretch(tools, lines, writer, progress)
        stretch_records.forget(context.run, planned)
        writer.publish()
    finally:
        writer.discard()
    record = StretchRecord(
        made_of=planned.made_of,
        engine=tools.engine.name,
        engine_reason=tools.reason,
        compared=tools.compared - compared,
        counts=counts.to_json(),
        files=tuple(writer.describe(context.run, planned.shard)),
        seconds=time.monotonic() - started,
    )
    stretch_records.write(context.run, planned, record)
    return record


@dataclass
class Progress:
    """The bytes and documents that a task has come to."""

    context: Context
    total: int
    """Bytes to read."""
    bytes: int = 0
    """Of the stretches that are finished."""
    documents: int = 0
    """Of the stretches that are finished."""
    due: float = 0.0

    def report(self, done: int, documents: int) -> None:
        """Report what of the current stretch is done, about once a second; obey a request to stop.

        Raises:
            Stopped: a stop was requested.
        """
        if (now := time.monotonic()) >= self.due:
            self._write(self.bytes + done, self.documents + documents)
            self.due = now + 1.0
        if self.context.stop:
            raise Stopped(
                "stop requested; the next attempt continues behind the finished stretches"
            )

    def finish(self, size: int, documents: int) -> None:
        """Report a finished stretch, of this attempt or an earlier one."""
        self.bytes += size
        self.documents += documents
        self._write(self.bytes, self.documents)

    def _write(self, done: int, documents: int) -> None:
        self.context.progress(done, self.total, "bytes", documents=documents)


def encode_stretch(
    tools: Tools, stretch: Stretch, writer: StretchWriter, progress: Progress
) -> Counts:
    """Encode every document of a stretch, with an entry each in the document map; return what was
    counted. Raises as ``tokenize``.
    """
    counts = Counts()
    for batch, encoded in encoded_batches(tools, stretch):
        counts.add(write(tools, batch, encoded, writer))
        progress.report(batch.position - stretch.begin, counts.documents)
    written = sum(dataset.tokens.documents for dataset in writer)
    if counts.read != written + counts.skipped:
        raise TaskError(
            f"{stretch.path}: {counts.read} documents were read, {written} written and "
            f"{counts.skipped} skipped",
            f"{RESUME} tokenizes it again",
            FAILED,
        )
    writer.seal(stretch.end)
    return counts


def encoded_batches(tools: Tools, stretch: Stretch) -> Iterator[tuple[Batch, Encoded]]:
    """Yield the batches of a stretch and the ids of their pieces.

    A batch is encoded in a thread while the next one is read and the one before is used.
    """
    with ThreadPoolExecutor(1) as pool:
        before: tuple[Batch, Future[Encoded]] | None = None
        for batch in tools.reader.batches(stretch):
            following = batch, pool.submit(tools.engine.encode, batch.pieces)
            if before is not None:
                yield before[0], before[1].result()
            before = following
        if before is not None:
            yield before[0], before[1].result()


def write(tools: Tools, batch: Batch, encoded: Encoded, writer: StretchWriter) -> Counts:
    """Append the documents of a batch and return their counts.

    Raises:
        TaskError: the encoder has lost a text.
    """
    engines.require_all(tools.engine.name, len(encoded.lengths), batch.pieces)
    kind = stored(tools.dtype)
    ids, lengths, kept = assemble.documents(batch, encoded, kind, tools.bos, tools.eod)
    writer.add(ids, lengths, document_map.entries(batch.begins, batch.ids)[kept])
    words, size = words_and_bytes(batch.texts)
    of_texts = len(encoded.ids) + len(batch.markup)
    return Counts(
        documents=len(lengths),
        skipped=batch.read - len(batch.texts) + int((~kept).sum()),
        tokens=len(ids),
        text_tokens=of_texts,
        text_bytes=size,
        words=words,
        longest=int(lengths.max(initial=0)),
        unknown=count(encoded.ids, tools.unknown),
        eod_in_text=count(encoded.ids, tools.eod),
        literals=batch.literals,
        read=batch.read,
        sources=tokens_of_sources([*compress(batch.sources, kept)], lengths),
    )


def count(ids: numpy.ndarray, token: int | None) -> int:
    """Return how often a token occurs."""
    return 0 if token is None else int((ids == token).sum())
