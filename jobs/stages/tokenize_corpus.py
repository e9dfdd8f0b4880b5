"""Tokenize stage: turn one JSONL shard into one Megatron indexed dataset, with a map from its
documents to the lines of the shard.

An end-of-document token follows each document; a BOS token stands before it where the vocabulary
registry names one. No torch or megatron.core is imported, so that a task starts at once. Memory
holds two batches of documents and four bytes per document.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from jobs.contract import done_markers, rundir, specs
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.errors import RESUME, Stopped, TaskError
from jobs.contract.stage_specs import TokenizeSpec
from jobs.data import document_map, tokenizer_file
from jobs.data.indexed_dataset import IndexedWriter, index_dtype, stored
from jobs.data.survey import sampled_sha256
from jobs.runtime.context import Context
from jobs.tokenization import assemble
from jobs.tokenization import engine as engines
from jobs.tokenization.counts import Counts, words_and_bytes
from jobs.tokenization.documents import Batch, Names, Reader
from jobs.tokenization.engine import Encoded, Engine, EngineData
from jobs.tokenization.stretches import Stretch

if TYPE_CHECKING:
    import numpy


def run(context: Context) -> None:
    """Tokenize the shard of the task's spec.

    Raises:
        TaskError: the tokenizer or the shard cannot be used as specified.
        Stopped: a stop was requested; no output remains, and the next attempt starts from scratch.
    """
    spec = cast(TokenizeSpec, context.task.spec)
    set_threads(context.task.cpus_per_rank)
    inputs = [
        require_input(context.run, spec.input),
        tokenizer_file.require_unchanged(context.run, spec.tokenizer),
    ]
    tools = Tools.load(spec, context.task.cpus_per_rank)
    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    made = tokenize_or_again(context, tools)
    context.finish(inputs, made.outputs, made.summary)


def tokenize_or_again(context: Context, tools: Tools) -> Made:
    """Tokenize with the chosen engine; where gigatoken gives other ids than ``tokenizers`` on the
    way, start again with the latter. Raises as ``tokenize``.
    """
    spec = cast(TokenizeSpec, context.task.spec)
    try:
        return tokenize(context, spec, tools)
    except engines.EngineDiffers as error:
        return tokenize(context, spec, tools.without_gigatoken(spec, error))


def set_threads(count: int) -> None:
    """Give the encoder one thread per core of the task; call it before the first encoding."""
    os.environ["RAYON_NUM_THREADS"] = str(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"


def require_input(run: rundir.RunDir, name: str) -> dict[str, Any]:
    """Return the shard as the done marker records it.

    Raises:
        TaskError: the shard cannot be read.
    """
    try:
        return done_markers.describe_file(run, name)
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
    def load(cls, spec: TokenizeSpec, threads: int) -> Tools:
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
            choice = engines.choose(spec.engine, data, names, threads)
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

    def summary(self) -> dict[str, Any]:
        """Return what a task records of its engine and its vocabulary."""
        return {
            "dtype": self.dtype,
            "vocabulary": self.vocabulary,
            "engine": self.engine.name,
            "engine_reason": self.reason,
            "compared": getattr(self.engine, "compared", 0),
        }


class Made(NamedTuple):
    """The files and the counts of a task."""

    outputs: list[dict[str, Any]]
    summary: dict[str, Any]


def tokenize(context: Context, spec: TokenizeSpec, tools: Tools) -> Made:
    """Write the dataset of the task's shard and publish it when it is whole; return its files as
    the done marker records them, and the task's counts.

    Raises:
        TaskError: a record has no text, or a text that is too long.
        Stopped: a stop was requested.
        EngineDiffers: gigatoken gave other ids than ``tokenizers``.
    """
    started = time.monotonic()
    prefix = context.path(spec.output_prefix)
    path = context.path(spec.input)
    with ExitStack() as stack:
        dataset = IndexedWriter(prefix, tools.dtype)
        stack.callback(dataset.discard)
        sources = document_map.map_file(prefix)
        stack.callback(sources.discard)
        counts = encode_shard(context, tools, stretch_of(path), dataset, sources)
        sources.seal()
        sources.publish()
        dataset.publish()
    summary = {
        **counts.to_json(),
        "bytes": path.stat().st_size,
        **tools.summary(),
        "seconds": time.monotonic() - started,
    }
    return Made(described(context.run, dataset, sources), summary)


def stretch_of(path: Path) -> Stretch:
    """Return the whole of a shard."""
    return Stretch(path, 0, path.stat().st_size, 0)


def described(
    run: rundir.RunDir, dataset: IndexedWriter, sources: AtomicFile
) -> list[dict[str, Any]]:
    """Return the published files as the done marker records them, with the digest of the blocks of
    the ``.bin`` by which training recognises it.
    """
    binary, index = dataset.parts
    sampled = {"sampled_sha256": sampled_sha256(binary.path)}
    return [binary.describe(run) | sampled, index.describe(run), sources.describe(run)]


def encode_shard(
    context: Context, tools: Tools, stretch: Stretch, dataset: IndexedWriter, sources: AtomicFile
) -> Counts:
    """Encode every document of a stretch into the dataset, with an entry each in the document map;
    return what was counted.

    Raises: as ``tokenize``.
    """
    size = stretch.path.stat().st_size
    counts, due = Counts(), 0.0
    for batch, encoded in encoded_batches(tools, stretch):
        counts.add(write(tools, batch, encoded, dataset, sources))
        if (now := time.monotonic()) >= due:
            context.progress(batch.position, size, "bytes", documents=dataset.documents)
            due = now + 1.0
        if context.stop:
            raise Stopped("stop requested; this shard starts from scratch in the next attempt")
    context.progress(size, size, "bytes", documents=dataset.documents)
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


def write(
    tools: Tools, batch: Batch, encoded: Encoded, dataset: IndexedWriter, sources: AtomicFile
) -> Counts:
    """Append the documents of a batch to the dataset and the document map; return their counts.

    Raises:
        TaskError: a document was lost between reading and writing.
    """
    import numpy

    kind = stored(dataset.dtype)
    ids, lengths, kept = assemble.documents(batch, encoded, kind, tools.bos, tools.eod)
    dataset.add(ids, lengths)
    begins, names = (numpy.array(column, dtype="<u8") for column in (batch.begins, batch.ids))
    sources.write(document_map.entries(begins[kept], names[kept]))
    words, size = words_and_bytes(batch.texts)
    of_texts = len(encoded.ids) + len(batch.markup)
    return Counts(
        documents=len(lengths),
        skipped=batch.read - len(lengths),
        tokens=len(ids),
        text_tokens=of_texts,
        text_bytes=size,
        words=words,
        longest=int(lengths.max(initial=0)),
        unknown=count(encoded.ids, tools.unknown),
        eod_in_text=count(encoded.ids, tools.eod),
        literals=batch.literals,
    )


def count(ids: numpy.ndarray, token: int | None) -> int:
    """Return how often a token occurs."""
    return 0 if token is None else int((ids == token).sum())
