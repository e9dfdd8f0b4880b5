"""Clean stage: read and clean one task's pieces of a corpus.

A killed task keeps the pieces that it has finished. Memory holds a document, a batch of texts
and 32 MB of lines.
"""

from __future__ import annotations

from typing import cast

from jobs.contract import done_markers
from jobs.contract.stage_specs import CleanSpec
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Clean every n-th piece of the sources.

    Raises:
        TaskError: a source cannot be read, or a record is bad under ``fail``.
        Stopped: a stop was requested; finished pieces stay.
    """
    from jobs.corpus import clean, decontamination, inputs, pieces
    from jobs.questions.benchmark_questions import questions

    spec = cast(CleanSpec, context.task.spec)
    rules = spec.corpus
    inputs.refuse_own_run(context.run, rules)
    files = pieces.find_pieces(rules)
    inputs.refuse_links_to_run(context.run, files)
    mine = files.of_task(spec.part, spec.parts)
    described = inputs.describe(context, mine)
    done_markers.forget_done(context.run, context.task.stage, context.task.index)
    folder = context.path(spec.output_dir) / pieces.FOLDER
    index = decontamination.index_of(rules, questions)
    clean.clean_pieces(context, folder, rules, mine, index)
    context.finish(described, [], clean.summary(folder, mine))
