"""Generate stage: an exported model answers a benchmark in text, and its answers are scored.

Several tasks may share the questions (``jobs.evaluation.items``): each appends its answers to one
file, and the one that finds all of them there writes the results. What is computed together does
not depend on the number of tasks, nor on what a killed attempt has left.
"""

from __future__ import annotations

import os
from typing import cast

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import GenerateSpec
from jobs.data import tokenizer_file
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import answering, generation_results, generation_work
from jobs.evaluation.exported_model import ExportedModel
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Answer the task's share of the questions; the task that finds all answered writes
    ``results.json`` and ``questions.jsonl``.

    Raises:
        TaskError: the benchmark, the tokenizer or the exported folder cannot be used, or answers
            were given to other prompts.
        Stopped: a stop was requested; answers remain, results do not.
    """
    spec = cast(GenerateSpec, context.task.spec)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    context.progress(0, 1, "answers", phase="startup")
    tokenizer_file.require_unchanged(context.run, spec.tokenizer)
    model = ExportedModel.read(context.path(spec.folder))
    encoder = Encoder.load(spec.tokenizer)
    model.require_tokens(encoder)
    work = generation_work.plan(context.run, spec, model, encoder)
    answering.answer_share(context, work, model.folder)
    if ExportedModel.read(model.folder).digest != model.digest:
        message = f"{model.folder}: another export has replaced it since this task began"
        raise TaskError(message, "submit the stage `generate` again")
    generation_results.finish(context, model, work)
