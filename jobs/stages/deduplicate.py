"""Deduplicate stage: find the duplicates among all cleaned pieces of a corpus, in one task."""

from __future__ import annotations

from typing import cast

from jobs.contract import done_markers
from jobs.contract.stage_specs import DeduplicateSpec
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Write which documents are duplicates.

    Raises:
        TaskError: a piece is missing, two documents have one id, or no document is left.
    """
    from jobs.corpus import deduplicate, piece_files, pieces

    spec = cast(DeduplicateSpec, context.task.spec)
    found = pieces.find_pieces(spec.corpus).pieces
    folder = context.path(spec.output_dir) / pieces.FOLDER
    finished = deduplicate.finished_pieces(folder, found)
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    key = piece_files.corpus_key(spec.corpus, found)
    deduplicate.deduplicate(context, folder, spec.corpus, finished, key)
    context.finish([], [], deduplicate.summary(finished))
