"""Check the answers in text that a run has before anything is submitted: they are continued or
judged only if they were given to what is asked now.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import GenerateSpec, JudgeSpec


def require_export(run: RunDir, spec: GenerateSpec, is_replaced: bool) -> None:
    """Refuse to generate with an exported folder that is there and whose tokens have no rows, and
    to continue answers that were given to other prompts.

    Args:
        is_replaced: the folder may be exported anew before.

    Raises:
        TaskError: naming the folder, or the file of the answers.
    """
    from jobs.data.tokenizer_file import Encoder
    from jobs.evaluation import generation_work
    from jobs.evaluation.exported_model import RECORD, ExportedModel
    from jobs.evaluation.generation_results import RESULTS

    folder, output = run.path(spec.folder), run.path(spec.output_dir)
    if spec.part or not (folder / RECORD).exists():
        return
    try:
        model = ExportedModel.read(folder)
        model.tokens()
    except TaskError:
        if is_replaced:
            return
        raise
    read = [Path(name) for name in (spec.path, spec.tokenizer.path)]
    if (output / RESULTS).exists() or not all(path.exists() for path in read):
        return
    if not any(output.glob("answers-*.jsonl")):
        return
    with suppress(ModuleNotFoundError):  # tokenizers or numpy, which this machine can do without
        generation_work.plan(run, spec, model, Encoder.load(spec.tokenizer))


def require_replies(run: RunDir, spec: JudgeSpec) -> None:
    """Refuse to judge answers that are there and were given to other conversations.

    Raises:
        TaskError: naming the file.
    """
    from jobs.judging import judge_work

    names = (spec.path, spec.answers, *([spec.other_answers] if spec.other_answers else []))
    if spec.part == 0 and all(run.path(name).is_file() for name in names):
        judge_work.read_replies(run, spec)
