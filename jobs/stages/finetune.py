"""Finetune stage: train on rows of questions and answers, from the weights of a checkpoint."""

from __future__ import annotations

from typing import cast

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import WEIGHT_PARTS, FinetuneSpec
from jobs.engine import rank_session
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Start or resume a finetuning, as one of the layout's ranks.

    Raises:
        Stopped: a stop was requested; every step done is in a checkpoint.
        TaskError: the spec, the rows or the checkpoints cannot be used.
    """
    spec = cast(FinetuneSpec, context.task.spec)
    check_weight(spec.prompt_loss_weight)
    with rank_session.training(context, spec) as device:
        from jobs.engine import trainer
        from jobs.engine.kinds.finetuning import Finetuning

        trainer.train(context, spec, device, Finetuning.open)


def check_weight(weight: float) -> None:
    """Refuse a weight of prompts in the loss that has no whole parts.

    Raises:
        TaskError: it is not among 0, 0.01, … 1.
    """
    parts = weight * WEIGHT_PARTS
    if not 0 <= parts <= WEIGHT_PARTS or abs(parts - round(parts)) > 1e-9:
        raise TaskError(
            f"finetune.prompt_loss_weight is {weight}, not a number of hundredths from 0 to 1",
            "set it to 0.0, 0.1 or 1.0, for example",
        )
