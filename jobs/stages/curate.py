"""Curate stage: write the shards of a corpus and its manifest.

One task alone cleans and deduplicates the sources itself; of several, each writes its shards from
what the stages before have left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from jobs.contract import done_markers
from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import CurateSpec
from jobs.runtime.context import Context

if TYPE_CHECKING:
    from jobs.corpus.pieces import SourceFiles


def run(context: Context) -> None:
    """Write every n-th shard; the task with the last one writes the manifest.

    Raises:
        TaskError: a source or a piece cannot be read, a record is bad under ``fail``, or no
            document is left.
        Stopped: a stop was requested; finished pieces and shards stay.
    """
    from jobs.corpus import inputs, manifest, piece_files, pieces, shards

    spec = cast(CurateSpec, context.task.spec)
    rules = spec.corpus
    inputs.refuse_own_run(context.run, rules)
    files = pieces.find_pieces(rules)
    inputs.refuse_links_to_run(context.run, files)
    described = inputs.describe(context, files.pieces) if spec.whole else []
    # The outputs change from here on: an earlier marker must not be taken for theirs.
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    corpus = context.path(spec.output_dir)
    key = piece_files.corpus_key(rules, files.pieces)
    mine = shards.shards_of(rules, spec.part, spec.parts)
    written = manifest.read_complete(corpus, key)
    if written is None:
        try:
            written = write_shards(context, spec, files, key, mine)
        except TaskError:
            # Another task may have ended the corpus meanwhile, and removed the pieces.
            written = manifest.read_complete(corpus, key)
            if written is None:
                raise
    lock = context.run.stage(context.task.stage) / "manifest.lock"
    manifest.finish(lock, corpus, rules, files, key)
    records = [written[shard] for shard in mine]
    outputs = [shards.describe(context.run, record) for record in records]
    if spec.whole:
        beside = (str(path.relative_to(context.run.root)) for path in manifest.written(corpus))
        outputs += [done_markers.describe_file(context.run, name) for name in beside]
    context.finish(described, outputs, manifest.summary(corpus, records, spec.whole))


def write_shards(
    context: Context, spec: CurateSpec, files: SourceFiles, key: str, mine: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """Write the task's shards from the pieces, which a task alone makes first; return the record of
    each. Raises as ``run``.
    """
    from jobs.corpus import clean, decontamination, deduplicate, manifest, pieces, shards
    from jobs.questions.benchmark_questions import questions

    rules, corpus = spec.corpus, context.path(spec.output_dir)
    folder = corpus / pieces.FOLDER
    if spec.whole:
        index = decontamination.index_of(rules, questions)
        clean.clean_pieces(context, folder, rules, files.pieces, index)
    finished = deduplicate.finished_pieces(folder, files.pieces)
    if spec.whole:
        deduplicate.deduplicate(context, folder, rules, finished, key)
    manifest.forget_other(corpus, key)
    return shards.ShardWriter(corpus, folder, rules, finished).write_all(context, mine, key)
