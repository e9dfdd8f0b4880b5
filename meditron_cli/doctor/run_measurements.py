"""What a save costs on this cluster: measured in a run that is there, else estimated."""

from __future__ import annotations

from pathlib import Path

from jobs.contract import metrics_log
from jobs.contract.rundir import RunDir
from jobs.contract.specs import TaskSpec, read_task
from meditron_cli.doctor.site_view import Workload
from meditron_cli.errors import ConfigError
from meditron_cli.plan.model import Plan
from meditron_cli.runs import store


def workload(plan: Plan, root: Path, size: str | None) -> Workload:
    """The training that is to run: the one that last saved on this cluster, of a size if one is
    asked for; before there is any, the plan's own.
    """
    task = plan.stage("pretrain").tasks[0]
    run = last_trained(root, plan.site.cluster, size)
    pace = metrics_log.measured_step_times(run) if run else None
    kept = read_task(run, "pretrain", 0) if run else None
    if run is None or pace is None or kept is None:
        return described(plan, task, plan.training_lead.pace, f"estimated for {plan.size}")
    return described(plan, kept, pace, f"measured in run {run.name}")


def described(plan: Plan, task: TaskSpec, pace: metrics_log.StepTimes, source: str) -> Workload:
    """A training task with its pace, among all tasks of a plan."""
    recovery_jobs = len(plan.stages) if plan.site.recovery_job else 0
    return Workload(
        pace=pace,
        source=source,
        save_interval=task.training.save_interval if task.training else 1,
        gpus=task.nodes * task.gpus_per_node,
        jobs=sum(len(stage.tasks) for stage in plan.stages) + recovery_jobs,
        time_minutes=plan.stage("pretrain").resources.time_minutes,
    )


def last_trained(root: Path, cluster: str, size: str | None) -> RunDir | None:
    """The run on a cluster whose training spoke last."""
    found = [run for name in store.names(root) if (run := RunDir(root / name)).metrics().exists()]
    found.sort(key=lambda run: run.metrics().stat().st_mtime_ns, reverse=True)
    return next((run for run in found if is_of(run, cluster, size)), None)


def is_of(run: RunDir, cluster: str, size: str | None) -> bool:
    """Whether a run was planned for a cluster, and a size."""
    try:
        plan = store.read_plan(run)
    except (ConfigError, OSError):
        return False
    return plan.get("cluster") == cluster and size in (None, plan.get("size"))
