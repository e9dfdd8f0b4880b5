"""Tasks that start before the stages before theirs have ended: evaluations and exports of
checkpoints that training saves on its way. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from jobs.contract.specs import TaskSpec
from jobs.contract.stage_specs import (
    COMPUTING_STAGES,
    FINETUNE,
    PRETRAIN,
    TRAINING_STAGES,
    EvaluateSpec,
    ExportSpec,
    Spec,
    early_step,
)
from meditron_cli.plan.model import Plan, StagePlan

CHECKPOINTS = "checkpoints"
"""The folder of pretraining's checkpoints."""

IMPORT = "convert"
"""The stage that makes step 0 of base weights."""


def waits_for(
    stage: StagePlan, task: TaskSpec, known: Collection[str], saved: Collection[int]
) -> tuple[str, ...]:
    """Return the stages that a task waits for at most: none once its checkpoint is saved.

    Args:
        stage: of the task.
        task: in question.
        known: the stages of the run.
        saved: steps of the checkpoints that exist.
    """
    step, others = early_step(task.spec), others_of(task.spec)
    after = tuple(name for name in stage.after if name not in others)
    if step is None:
        return after
    if step in saved:
        return ()
    if step == 0 and IMPORT in known:
        return (IMPORT,)
    return tuple(name for name in after if name in TRAINING_STAGES) or after


def is_finetuned(spec: EvaluateSpec | ExportSpec) -> bool:
    """Return whether a task reads a checkpoint of a finetuned model, and not of pretraining."""
    return spec.checkpoint_dir != CHECKPOINTS


def others_of(spec: Spec) -> tuple[str, ...]:
    """Return the stages that make checkpoints of the other kind than a task reads; none for a task
    that reads none.
    """
    if not isinstance(spec, EvaluateSpec | ExportSpec):
        return ()
    return (PRETRAIN, IMPORT) if is_finetuned(spec) else (FINETUNE,)


def parts(
    stage: StagePlan, indices: Iterable[int], known: Collection[str], saved: Collection[int]
) -> Iterator[tuple[StagePlan, tuple[int, ...]]]:
    """Yield the submissions of some tasks of a stage: those that wait for the same stages together,
    with these as the stages before.
    """
    tasks = {task.index: task for task in stage.tasks}
    groups: dict[tuple[str, ...], list[int]] = {}
    for index in indices:
        groups.setdefault(waits_for(stage, tasks[index], known, saved), []).append(index)
    for after, together in groups.items():
        yield replace(stage, after=after), tuple(together)


def lines(plan: Plan) -> Iterator[str]:
    """Yield a sentence per stage with tasks that start before training ends."""
    for stage in plan.stages:
        if stage.stage in COMPUTING_STAGES and plan.site.scheduler != "slurm":
            continue  # it waits for the devices of this machine
        steps = {early_step(task.spec) for task in stage.tasks}
        some = ", ".join(str(step) for step in sorted(step for step in steps if step is not None))
        if some:
            yield f"{stage.stage:<12} of step {some}: as soon as its checkpoint is saved"
