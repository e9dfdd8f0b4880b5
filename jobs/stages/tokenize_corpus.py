"""Tokenize stage: turn one JSONL shard into one Megatron indexed dataset, with a map from its
documents to the lines of the shard.

An end-of-document token follows each document; a BOS token stands before it where the vocabulary
registry names one. No torch or megatron.core is imported, so that a task starts at once. Memory
holds one batch of documents and four bytes per document.
"""

from __future__ import annotations

import itertools
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from jobs.contract import done_markers, rundir, specs
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.errors import RESUME, Stopped, TaskError
from jobs.contract.stage_specs import TokenizeSpec
from jobs.data import document_map, tokenizer_file
from jobs.data.cleaning import SPANS_KEY, length_problem
from jobs.data.indexed_dataset import IndexedWriter, index_dtype, stored
from jobs.data.survey import sampled_sha256
from jobs.data.tokenizer_file import Encoder
from jobs.runtime.context import Context

if TYPE_CHECKING:
    import numpy

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 1024
"""A batch ends at either; its encodings take about 120 bytes per character of English."""


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
    encoder = load_encoder(spec)
    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    dtype = index_dtype(encoder.vocabulary_size)
    prefix = context.path(spec.output_prefix)
    dataset = IndexedWriter(prefix, dtype)
    try:
        sources = document_map.map_file(prefix)
        try:
            summary = encode_shard(context, spec, encoder, dataset, sources)
            sources.seal()
            sources.publish()
            dataset.publish()
        finally:
            sources.discard()
    finally:
        dataset.discard()
    context.finish(inputs, described(context.run, dataset, sources), summary)


def described(
    run: rundir.RunDir, dataset: IndexedWriter, sources: AtomicFile
) -> list[dict[str, Any]]:
    """Return the published files as the done marker records them, with the digest of the blocks of
    the ``.bin`` by which training recognises it.
    """
    binary, index = dataset.parts
    sampled = {"sampled_sha256": sampled_sha256(binary.path)}
    return [binary.describe(run) | sampled, index.describe(run), sources.describe(run)]


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


def load_encoder(spec: TokenizeSpec) -> Encoder:
    """Load the tokenizer and check that it fits the model.

    Raises:
        TaskError: the file is not a tokenizer.json, is not that of the vocabulary registry, or has
            more ids than the model.
    """
    encoder = Encoder.load(spec.tokenizer, special_tokens_in_text=spec.special_tokens_in_text)
    if encoder.vocabulary_size > spec.model_vocab_size:
        message = (
            f"{spec.tokenizer.path}: its vocabulary of {encoder.vocabulary_size} does not fit "
            f"the model's of {spec.model_vocab_size}"
        )
        raise TaskError(message, "raise model.vocab_size, or use the tokenizer made for the model")
    return encoder


def encode_shard(
    context: Context,
    spec: TokenizeSpec,
    encoder: Encoder,
    dataset: IndexedWriter,
    sources: AtomicFile,
) -> dict[str, Any]:
    """Encode every document of the shard into the dataset, with an entry each in the document map;
    return the task's summary.

    Raises:
        TaskError: a record has no text, or a text that is too long.
        Stopped: a stop was requested.
    """
    started = time.monotonic()
    path = context.path(spec.input)
    size = path.stat().st_size
    read = skipped = eod_in_text = 0
    due = 0.0
    for batch in batches(path, spec.text_key):
        if context.stop:
            raise Stopped("stop requested; this shard starts from scratch in the next attempt")
        ids, lengths = encode(encoder, dataset.dtype, batch.texts, batch.spans)
        kept = lengths > 0
        lengths = lengths[kept]
        dataset.add(ids, lengths)
        sources.write(batch.entries(kept))
        read += batch.read
        skipped += batch.read - len(lengths)
        eod_in_text += int((ids == encoder.eod).sum()) - added_ends(encoder) * len(lengths)
        if (now := time.monotonic()) >= due:
            context.progress(batch.position, size, "bytes", documents=dataset.documents)
            due = now + 1.0
    context.progress(size, size, "bytes", documents=dataset.documents)
    return {
        "documents": dataset.documents,
        "skipped": skipped,
        "tokens": dataset.tokens,
        "eod_in_text": eod_in_text,
        "bytes": size,
        "dtype": dataset.dtype,
        "vocabulary": specs.digest(spec.tokenizer.vocabulary),
        "seconds": time.monotonic() - started,
    }


def added_ends(encoder: Encoder) -> int:
    """Return how often the end-of-document id is put around a text: twice if it is BOS too."""
    return 1 + (encoder.bos == encoder.eod)


class DocumentBatch(NamedTuple):
    """Consecutive documents of a shard."""

    texts: list[str]
    """The texts that are not empty."""
    spans: list[Sequence[Sequence[int]] | None]
    """Places of the markup tokens of each text; None where names in the text are the tokens."""
    begins: list[int]
    """Where the line of each text begins in the shard."""
    ids: list[int]
    """Hash of the id of each text's document."""
    read: int
    """Documents read for the batch, including empty ones."""
    position: int
    """Bytes of the shard read so far."""

    def entries(self, kept: numpy.ndarray) -> bytes:
        """Return the entries in the document map of the texts that are kept, bool ``[texts]``."""
        import numpy

        begins, ids = (numpy.array(column, dtype="<u8") for column in (self.begins, self.ids))
        return document_map.entries(begins[kept], ids[kept])


def batches(path: Path, text_key: str) -> Iterator[DocumentBatch]:
    """Yield the shard's documents, about BATCH_CHARACTERS at a time.

    Raises:
        TaskError: a line is not a JSON object with a text of a length that curate writes.
    """
    from jobs.data import readers

    texts: list[str] = []
    spans: list[Sequence[Sequence[int]] | None] = []
    begins: list[int] = []
    ids: list[int] = []
    read = characters = position = 0
    for record in readers.read_records(path, (text_key,)):
        text = record.value.get(text_key, "")
        if problem := record.problem or length_problem(text):
            remove = f"`rm {shlex.quote(str(path))}`"
            hint = f"the shard was changed after curate wrote it; {remove}, then {RESUME}"
            raise TaskError(f"{path}:{record.line}: {problem}", hint)
        if text:
            texts.append(text)
            spans.append(record.value.get(SPANS_KEY))
            begins.append(position)  # blank lines before it included
            ids.append(document_map.hashed(document_map.identity(record.value, text)))
        read, characters, position = read + 1, characters + len(text), record.position
        if characters >= BATCH_CHARACTERS or read >= BATCH_DOCUMENTS:
            yield DocumentBatch(texts, spans, begins, ids, read, position)
            texts, spans, begins, ids, read, characters = [], [], [], [], 0, 0
    yield DocumentBatch(texts, spans, begins, ids, read, position)


def encode(
    encoder: Encoder,
    dtype: str,
    texts: Sequence[str],
    spans: Sequence[Sequence[Sequence[int]] | None],
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the token ids of texts back to back, each text after the BOS id, where there is one,
    and followed by the end-of-document id.

    A text without a single token is left out.

    Args:
        spans: of the markup tokens of each text; None where names in the text are the tokens.

    Returns:
        ids: [tokens], of the type that ``dtype`` is stored in.
        lengths: [texts], int32, tokens of each document with its BOS and end; 0 of one left out.
    """
    import numpy

    start = [] if encoder.bos is None else [encoder.bos]
    both = list(zip(texts, spans, strict=True))
    plain = iter(encoder.encode_all([text for text, places in both if places is None]))
    found = [(text, places) for text, places in both if places is not None]
    marked = iter(encoder.encode_marked(found))
    encoded = (next(plain if places is None else marked) for places in spans)
    sequences = [[*start, *ids, encoder.eod] if ids else [] for ids in encoded]
    lengths = numpy.array([len(ids) for ids in sequences], dtype="<i4")
    tokens = itertools.chain.from_iterable(sequences)
    return numpy.fromiter(tokens, dtype=stored(dtype), count=int(lengths.sum())), lengths
