"""Evaluate stage: score one checkpoint on one benchmark by the log-likelihood of the options.

Several tasks may share the items of a score (``jobs.evaluation.items``): each appends its answers
to one file, and the one that finds all of them there writes the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from jobs.checkpoints import selection
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.checkpoints.selection import Choice
from jobs.contract.stage_specs import EvaluateSpec
from jobs.data import tokenizer_file
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation import likelihood_items, likelihood_results
from jobs.evaluation.likelihood_items import Asked, prompts_of
from jobs.evaluation.likelihood_prompts import Prompts
from jobs.evaluation.likelihood_work import Recorder, StopCheck, Work
from jobs.questions import readers
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase

if TYPE_CHECKING:
    import torch

    from jobs.evaluation.protocol import Scorer


def run(context: Context) -> None:
    """Score the task's share of the items; the task that finds all answered writes
    ``results.json`` and ``questions.jsonl``.

    Raises:
        TaskError: the benchmark or the tokenizer cannot be used, the checkpoint is missing or
            belongs to an unfinished run, or a log-likelihood is not finite.
        Stopped: a stop was requested; answers remain, results do not.
    """
    spec = cast(EvaluateSpec, context.task.spec)
    tokenizer_file.require_unchanged(context.run, spec.tokenizer)
    questions = readers.read(Path(spec.path), spec.kind, spec.options)
    prompts = prompts_of(spec)
    asked = list(likelihood_items.ask(questions, spec, prompts))
    choice = Choice(context.path(spec.checkpoint_dir), spec.checkpoint, spec.target_step)
    with selection.lease(context, choice):
        evaluate(context, choice, asked, prompts)


def evaluate(context: Context, choice: Choice, asked: Sequence[Asked], prompts: Prompts) -> None:
    """Score the checkpoint and write the results where all items are answered."""
    spec = cast(EvaluateSpec, context.task.spec)
    checkpoint, record = selection.find(choice, spec.model, spec.tokenizer, "evaluated")
    if context.rank == 0:
        context.progress(0, len(asked), "questions", phase="startup")
    work = Work.plan(context, asked, prompts, Encoder.load(spec.tokenizer), record)
    try:
        if context.world_size > 1 or work.to_do(context):
            score(context, checkpoint, record, work)
    except OSError:
        selection.require_same(checkpoint, record)
        raise
    context.heart.beat(Phase.LEAVING)
    if context.rank == 0:
        total = work.share_size(context)
        context.progress(total, total, "questions", phase="step")
        selection.require_same(checkpoint, record)
        likelihood_results.finish(context, checkpoint, record, work)


def score(context: Context, checkpoint: Path, record: CheckpointRecord, work: Work) -> None:
    """Build the model, load its weights and answer the items that the task has to."""
    from jobs.engine import device as devices

    spec = cast(EvaluateSpec, context.task.spec)
    with devices.session(context, spec.device) as device:
        from jobs.engine import model
        from jobs.engine.checkpoint import load_weights
        from jobs.evaluation.megatron_scorer import MegatronScorer

        model.start_parallel(spec.parallel, spec.seed)
        network = model.build(spec.model, spec.parallel, spec.precision, device, for_inference=True)
        load_weights(checkpoint, network, context.heart.touch)
        scorer = MegatronScorer(
            lambda tokens, places: model.logits_at(network, tokens.to(device), places),
            work.filler,
            max_length=work.max_length,
            batch_size=spec.batch_size,
        )
        while batches := devices.decide_once(lambda: work.to_do(context)):
            answer(context, scorer, work, batches, device)


def answer(
    context: Context, scorer: Scorer, work: Work, batches: Sequence[int], device: torch.device
) -> None:
    """Answer the items of some batches, and store the answers now and then."""
    check = StopCheck(context, work.share_size(context), device)
    check.done = check.total - sum(len(work.batches[number]) for number in batches)
    with Recorder(context, work.store) as recorder:
        for number in batches:
            items = [work.items[place] for place in work.batches[number]]
            found = scorer.score([item.prompt for item in items], [item.options for item in items])
            recorder.add(work.answers(items, found))
            check.after(len(items))
