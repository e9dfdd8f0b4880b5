"""The cost of a save on a cluster: measured in a run on it, or else estimated."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.contract import metrics_log
from jobs.contract.files import last_change
from jobs.contract.rundir import RunDir
from jobs.contract.specs import TaskSpec, read_task
from jobs.contract.stage_specs import PRETRAIN
from meditron_cli.doctor.site_view import Workload
from meditron_cli.errors import ConfigError
from meditron_cli.plan.model import Plan
from meditron_cli.runs import store


def workload(plan: Plan, root: Path, size: str | None) -> Workload:
    """Return the training that is to run, with measured step and save times where there are some.

    The run that trained last on this cluster counts, or the last one of ``size`` if given; the plan
    itself without such a run.
    """
    task = plan.training.tasks[0]
    run = last_trained(root, plan.site.cluster, size)
    measured = read_task(run, PRETRAIN, 0) if run else None
    training = measured.training if measured else None
    times = metrics_log.measured_step_times(run, PRETRAIN, training) if run else None
    if run is None or times is None or measured is None:
        return describe(plan, task, plan.training_lead.times, f"estimated for {plan.size}")
    return describe(plan, measured, times, f"measured in run {run.name}")


def describe(plan: Plan, task: TaskSpec, times: metrics_log.StepTimes, source: str) -> Workload:
    """Return the workload of a plan whose training is this task, with these times."""
    recovery_jobs = len(plan.stages) if plan.site.recovery_job else 0
    return Workload(
        times=times,
        source=source,
        save_interval=task.training.save_interval if task.training else 1,
        gpus=task.nodes * task.gpus_per_node,
        jobs=sum(len(stage.tasks) for stage in plan.stages) + recovery_jobs,
        time_minutes=plan.training.resources.time_minutes,
    )


def last_trained(root: Path, cluster: str, size: str | None) -> RunDir | None:
    """Return the run on a cluster that logged a training step last; None without one."""
    times = {run: trained_at(run) for run in store.runs(root)}
    trained = sorted(filter(times.get, times), key=times.__getitem__, reverse=True)
    return next((run for run in trained if is_of(run, cluster, size)), None)


def trained_at(run: RunDir) -> int:
    """Return when a run last logged a pretraining step, in nanoseconds since 1970; 0 for never, and
    where this user cannot read the log.
    """
    log = run.metrics(PRETRAIN)
    return last_change(log) if os.access(log, os.R_OK) else 0


def is_of(run: RunDir, cluster: str, size: str | None) -> bool:
    """Return whether a run was planned for a cluster, and for a size unless that is None."""
    try:
        plan = store.read_plan(run)
    except (ConfigError, OSError):
        return False
    return plan.get("cluster") == cluster and size in (None, plan.get("size"))
