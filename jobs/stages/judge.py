"""Judge stage: a judge, a model in a folder of its own, grades the answers of a model.

Tasks share the judge's questions as those of the stage ``generate`` share a benchmark's: each
appends verdicts to one file, and the one that finds all of them there writes the results.
"""

from __future__ import annotations

import os
from functools import partial
from typing import cast

from jobs.contract.stage_specs import JudgeSpec
from jobs.evaluation import answering
from jobs.judging import judge_results, judge_work
from jobs.judging.judge_model import JudgeModel
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Give the task's share of the verdicts; the task that finds all given writes ``results.json``
    and ``judgements.jsonl``.

    Raises:
        TaskError: the benchmark, the answers, people's grades or the judge's folder cannot be used.
        Stopped: a stop was requested; verdicts remain, results do not.
    """
    spec = cast(JudgeSpec, context.task.spec)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    beat = partial(context.progress, 0, 1, "answers", phase="startup")
    beat()
    model = JudgeModel.read(context.path(spec.folder), beat)
    judgement = judge_work.plan(context, model)
    answering.answer_share(context, judgement.work, model.folder)
    judge_results.finish(context, model, judgement)
