"""Curate stage: clean and deduplicate documents into JSONL shards, and write a manifest.

One pass in one process. Memory holds the digests of the kept documents (about 100 bytes each) and
one document. Files are read in the order of their paths, and of equal documents the first is kept,
so the same files give the same bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from jobs.contract import done_markers, rundir
from jobs.contract.atomic_file import AtomicFile
from jobs.contract.corpus.rules import SourceSpec
from jobs.contract.errors import Stopped, TaskError
from jobs.contract.files import FORMAT, fsync_folder
from jobs.contract.stage_specs import CurateSpec
from jobs.contract.units import plural
from jobs.corpus.corpus_writer import OUTCOMES, CorpusWriter
from jobs.data.cleaning import REPAIRS
from jobs.runtime.context import Context

DIGESTED_INPUT_BYTES = 64 << 20
"""Larger sources are identified by size and modification time, so that they are read only once."""


def run(context: Context) -> None:
    """Curate the sources of the task's spec into its output folder.

    Raises:
        TaskError: a source cannot be read, a record is bad under ``fail``, or no document is left.
        Stopped: a stop was requested; no output remains, and the next attempt starts from scratch.
    """
    from jobs.corpus.formats.files import find_files

    spec = cast(CurateSpec, context.task.spec)
    rules = spec.corpus
    named = [source.path for source in rules.sources]
    refuse_own_run(context.run, named)
    _, ignored = find_files(named)
    files: dict[Path, SourceSpec] = {}
    for source in rules.sources:
        for path in find_files([source.path])[0]:
            files.setdefault(path, source)
    inputs = [describe_source(context.run, path) for path in files]
    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    corpus = CorpusWriter(context.path(spec.output_dir), rules)
    try:
        corpus.open()
        sources = curate_files(context, corpus, files)
        require_documents(corpus, sources)
        corpus.publish()
    finally:
        corpus.discard()
    counts = total_counts(corpus, sources)
    shards = corpus.describe(context.run.root)
    content = {
        "counts": counts,
        "repairs": repair_counts(corpus.repairs),
        "sources": sources,
        "shards": shards,
        "ignored": ignored,
    }
    manifest = write_manifest(context.path(spec.output_dir) / "manifest.json", content)
    written = [*(shard.part for shard in corpus.shards), manifest]
    context.finish(inputs, [part.describe(context.run) for part in written], counts)


def refuse_own_run(run: rundir.RunDir, sources: Sequence[str]) -> None:
    """Refuse a source folder that contains the run directory.

    Raises:
        TaskError: the run directory lies in one of the sources.
    """
    for source in sources:
        if run.root.is_relative_to(os.path.realpath(source)):
            message = f"{source}: this folder holds the run directory {run.root}"
            raise TaskError(message, "keep documents and runs in different folders")


def describe_source(run: rundir.RunDir, path: Path) -> dict[str, Any]:
    """Return a source as the done marker records it."""
    small = path.stat().st_size <= DIGESTED_INPUT_BYTES
    return done_markers.describe_file(run, str(path), with_digest=small)


def curate_files(
    context: Context, corpus: CorpusWriter, files: Mapping[Path, SourceSpec]
) -> list[dict[str, Any]]:
    """Write every file's records to the corpus; return the counts per file."""
    from jobs.corpus import source_files

    sizes = [path.stat().st_size for path in sorted(files)]
    sources = []
    due = 0.0
    for number, (path, corpus.source) in enumerate(sorted(files.items())):
        counts: Counter[str] = Counter()
        repaired = corpus.repairs.copy()
        for record in source_files.read_records(path, corpus.keys):
            if context.stop:
                raise Stopped("stop requested; curation starts from scratch in the next attempt")
            counts[corpus.take(path, record)] += 1
            if (now := time.monotonic()) >= due:
                done = sum(sizes[:number]) + record.position
                context.progress(done, sum(sizes), "bytes", documents=corpus.documents)
                due = now + 1.0
        repairs = repair_counts(corpus.repairs - repaired)
        described = {"path": str(path), "bytes": sizes[number], "repairs": repairs}
        sources.append({**described, **by_outcome(counts)})
    context.progress(sum(sizes), sum(sizes), "bytes", documents=corpus.documents)
    return sources


def repair_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the repaired documents and a count for each of REPAIRS, zeros included."""
    return {name: counts.get(name, 0) for name in ("documents", *REPAIRS)}


def by_outcome(counts: Mapping[str, int]) -> dict[str, int]:
    """Return ``in`` and a count for each of OUTCOMES, zeros included."""
    return {"in": sum(counts.values()), **{name: counts.get(name, 0) for name in OUTCOMES}}


def sum_counts(sources: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return ``in`` and the OUTCOMES summed over all files."""
    return {name: sum(source[name] for source in sources) for name in ("in", *OUTCOMES)}


def total_counts(corpus: CorpusWriter, sources: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the task's summary: all files' counts, documents per split, bytes of all shards."""
    return {
        **sum_counts(sources),
        "repaired": corpus.repairs["documents"],
        "documents": corpus.documents,
        "train": sum(shard.documents for shard in corpus.train),
        "validation": corpus.validation.documents,
        "bytes": sum(shard.part.bytes for shard in corpus.shards),
    }


def write_manifest(path: Path, content: Mapping[str, Any]) -> AtomicFile:
    """Write the corpus's manifest; ``ignored`` are files of kinds that are not read."""
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
    """Refuse a corpus without training documents.

    Raises:
        TaskError: no document was kept, or all of them are in the validation split.
    """
    if not corpus.documents:
        totals = sum_counts(sources)
        message = (
            f"no document left (files: {len(sources)}, records: {totals['in']}, "
            f"bad: {totals['bad']}, empty: {totals['empty']}, "
            f"too short: {totals['short']})"
        )
        raise TaskError(message, "see curate.sources, curate.text_key and curate.min_chars")
    if not any(shard.documents for shard in corpus.train):
        documents = plural(corpus.documents, "document")
        message = f"no document is in the training split, {documents} in the validation split"
        raise TaskError(message, "lower curate.validation_fraction or add documents")
