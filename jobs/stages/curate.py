"""Documents of many files → clean, distinct documents in JSONL shards, and a manifest.

One pass, one process. Memory holds the digests of the documents kept (some 100 bytes each) and one
document. Files are read in the order of their paths and of equal documents the first one stays, so
the same files give the same bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.contract import done_markers, rundir
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import FORMAT, fsync_folder
from jobs.contract.stage_specs import CurateSpec
from jobs.data.corpus_writer import OUTCOMES, CorpusWriter
from jobs.runtime.context import Context

if TYPE_CHECKING:
    pass

DIGESTED_INPUT_BYTES = 64 << 20
"""Larger sources are known by size and modification time, to be read once only."""


def run(context: Context) -> None:
    """Curate the sources of the task's spec into its output folder.

    Raises:
        TaskError: a source that cannot be read, a bad record under ``fail``, or no document left.
        Stopped: asked to stop; nothing is left behind, the next start begins anew.
    """
    from jobs.data import readers

    spec = cast(CurateSpec, context.task.spec)
    refuse_own_run(context.run, spec.sources)
    files, ignored = readers.find_files(spec.sources)
    inputs = [describe_source(context.run, path) for path in files]
    # From here on the outputs are in flux: an earlier marker must not vouch for them.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    corpus = CorpusWriter(context.path(spec.output_dir), spec)
    try:
        corpus.open()
        sources = curate_files(context, corpus, files)
        require_documents(corpus, sources)
        corpus.publish()
    finally:
        corpus.discard()
    counts = total_counts(corpus, sources)
    shards = corpus.describe(context.run.root)
    content = {"counts": counts, "sources": sources, "shards": shards, "ignored": ignored}
    manifest = write_manifest(context.path(spec.output_dir) / "manifest.json", content)
    written = [*(shard.part for shard in corpus.shards), manifest]
    context.finish(inputs, [part.describe(context.run) for part in written], counts)


def refuse_own_run(run: rundir.RunDir, sources: Sequence[str]) -> None:
    """Refuse a source folder in which the run itself writes.

    Raises:
        TaskError: the run directory lies in one of the sources.
    """
    for source in sources:
        if run.root.is_relative_to(os.path.realpath(source)):
            message = f"{source}: this folder holds the run directory {run.root}"
            raise TaskError(message, "keep documents and runs in different folders")


def describe_source(run: rundir.RunDir, path: Path) -> dict[str, Any]:
    """A source as the done marker keeps it."""
    small = path.stat().st_size <= DIGESTED_INPUT_BYTES
    return done_markers.describe_file(run, str(path), with_digest=small)


def curate_files(
    context: Context, corpus: CorpusWriter, files: Sequence[Path]
) -> list[dict[str, Any]]:
    """Take every record of every file into the corpus; answers the counts of each file."""
    from jobs.data import readers

    sizes = [path.stat().st_size for path in files]
    counted = []
    due = 0.0
    for number, path in enumerate(files):
        counts: Counter[str] = Counter()
        for record in readers.read_records(path, corpus.keys):
            if context.stop:
                raise Stopped("asked to stop; curation begins anew at the next start")
            counts[corpus.take(path, record)] += 1
            if (now := time.monotonic()) >= due:
                done = sum(sizes[:number]) + record.position
                context.progress(done, sum(sizes), "bytes", documents=corpus.documents)
                due = now + 1.0
        counted.append({"path": str(path), "bytes": sizes[number], **by_outcome(counts)})
    context.progress(sum(sizes), sum(sizes), "bytes", documents=corpus.documents)
    return counted


def by_outcome(counts: Mapping[str, int]) -> dict[str, int]:
    """``in`` and a number for each of OUTCOMES, zeros included."""
    return {"in": sum(counts.values()), **{name: counts.get(name, 0) for name in OUTCOMES}}


def sum_counts(sources: Sequence[dict[str, Any]]) -> dict[str, int]:
    """``in`` and the OUTCOMES over all files."""
    return {name: sum(source[name] for source in sources) for name in ("in", *OUTCOMES)}


def total_counts(corpus: CorpusWriter, sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The task's summary: all files' counts, documents of each split, bytes of all shards."""
    return {
        **sum_counts(sources),
        "documents": corpus.documents,
        "train": sum(shard.documents for shard in corpus.train),
        "validation": corpus.validation.documents,
        "bytes": sum(shard.part.bytes for shard in corpus.shards),
    }


def write_manifest(path: Path, content: Mapping[str, Any]) -> AtomicFile:
    """Write what a reader wants to know of the corpus; ``ignored`` are files of no kind we read."""
    manifest = AtomicFile(path)
    try:
        value = {"format": FORMAT, **content}
        manifest.write(json.dumps(value, indent=1, sort_keys=True, default=str).encode() + b"\n")
        manifest.seal()
        manifest.publish()
    finally:
        manifest.discard()
    fsync_folder(path.parent)
    return manifest


def require_documents(corpus: CorpusWriter, sources: Sequence[dict[str, Any]]) -> None:
    """Refuse a corpus that nothing can be trained on.

    Raises:
        TaskError: no document was kept, or all fell to validation.
    """
    if not corpus.documents:
        totals = sum_counts(sources)
        message = (
            f"no document left (files: {len(sources)}, records: {totals['in']}, "
            f"bad: {totals['bad']}, empty: {totals['empty']}, "
            f"shorter than {corpus.min_chars} characters: {totals['short']})"
        )
        raise TaskError(message, "see curate.sources, curate.text_key and curate.min_chars")
    if not any(shard.documents for shard in corpus.train):
        message = f"all {corpus.documents} documents fell to validation, none is left to train on"
        raise TaskError(message, "lower curate.validation_fraction or add documents")
