"""Pretrain stage: train on a mixture of corpora."""

from __future__ import annotations

from typing import cast

from jobs.contract.stage_specs import PretrainSpec
from jobs.engine import rank_session
from jobs.runtime.context import Context


def run(context: Context) -> None:
    """Start or resume pretraining, as one of the layout's ranks.

    Raises:
        Stopped: a stop was requested; every step done is in a checkpoint.
        TaskError: the spec, the data or the checkpoints cannot be used.
    """
    spec = cast(PretrainSpec, context.task.spec)
    with rank_session.training(context, spec) as device:
        from jobs.engine import trainer
        from jobs.engine.kinds.pretraining import Pretraining

        trainer.train(context, spec, device, Pretraining.open)
