"""Slurm from the login node: submissions of plans, states, cancellation."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.contract.attempt_history import RunHistory
from jobs.contract.errors import RESUME
from jobs.contract.events import IntentEvent, SubmitEvent
from jobs.contract.rundir import RunDir
from jobs.contract.specs import RUN
from jobs.contract.stage_specs import PRETRAIN, TRAINING_STAGES
from jobs.contract.units import plural
from jobs.slurm import sbatch, submission
from jobs.slurm.client import SILENCE, Client
from jobs.slurm.submission import Submission, SubmitError
from jobs.slurm.submission_log import SlurmQueue
from meditron_cli.errors import ConfigError, SchedulerError
from meditron_cli.plan import early
from meditron_cli.scheduler.base import JobInfo

if TYPE_CHECKING:
    from meditron_cli.plan.model import Plan, Resources, StagePlan

UNWRITABLE = r"[%\\:\x00-\x1f\x7f]"
"""Characters of a path that mean something in ``#SBATCH --output`` or PYTHONPATH, or end a line."""
UNMOUNTABLE = r"[,%\\:\x00-\x1f\x7f]"
"""The same, and the one that means something in a container's mount option."""


class SlurmScheduler:
    """Jobs on a Slurm cluster."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._client = Client(environ)
        self._arrays: dict[str, int] = {}
        """Arrays submitted here, and their lengths."""

    def require_answer(self) -> None:
        """Refuse a machine without Slurm's commands, or without an answer from squeue."""
        with translated():
            sbatch.require_commands(self._client)
        if self._client.queue() is None:
            raise no_answer()

    def render(self, plan: Plan, run: Path) -> str:
        """Return every batch script of a first submission, byte for byte, each under a title.

        Job ids that only the submission will know are ``<curate>`` and the like.
        """
        refuse_path(plan, run)
        return "\n".join(
            f"#### {title} ####\n{script}"
            for stage in plan.stages
            for title, script in scripts(plan, stage, RunDir(run))
        )

    def submit(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        """Submit tasks as arrays no longer than the site allows."""
        refuse_path(plan, run)
        waits_for = tuple(submission.whole_arrays(after, self._arrays))
        request = replace(submission_of(plan, stage, run, indices, attempt), after=waits_for)
        with translated():
            ids = sbatch.submit(RunDir(run), request, self._client)
        for part in submission.chunks(request):
            if len(part.indices) > 1:
                first = ids[request.indices.index(part.indices[0])]
                self._arrays[first.split("_")[0]] = len(part.indices)
        return ids

    def submit_recovery_job(
        self, plan: Plan, stage: StagePlan, run: Path, attempt: int, job_ids: Sequence[str]
    ) -> list[str]:
        """Submit the recovery job of these jobs."""
        request = submission_of(plan, stage, run, (), attempt)
        with translated():
            return sbatch.submit_recovery_job(RunDir(run), request, job_ids, self._client)

    def adopt(self, run: RunDir, intent: IntentEvent, history: RunHistory) -> SubmitEvent | None:
        """Complete a submission that was killed, where all of its jobs exist."""
        with translated():
            return SlurmQueue(self._client).adopt(run, intent, history)

    def withdraw(self, run: RunDir, intent: IntentEvent, failure: str = "") -> None:
        """Cancel the jobs of a submission without a result, found by name and comment."""
        with translated():
            SlurmQueue(self._client).withdraw(run, intent, failure)

    def node_names(self, partition: str) -> tuple[str, ...] | None:
        """Return the nodes that sinfo lists."""
        return self._client.partition_nodes(partition)

    def states(self, jobs: Mapping[str, Collection[str]]) -> dict[str, dict[str, JobInfo]]:
        """Return the states of jobs, from one squeue and one sacct for those it does not list."""
        return self._client.states(jobs)

    def cancel(
        self, run: str, job_ids: Collection[str], accepted: Callable[[], None] = lambda: None
    ) -> None:
        """Cancel jobs of a run; jobs that have ended are ignored."""
        require_accepted(self._client.cancel_of_run(run, job_ids))
        accepted()

    def release(self, job_ids: Collection[str]) -> list[str]:
        """Release held jobs; return the jobs for which that worked."""
        return [job_id for job_id in job_ids if self._client.release(job_id)]

    def start_now(self, job_ids: Collection[str]) -> list[str]:
        """Drop the start time that pending jobs wait for; return the jobs for which that worked."""
        return [job_id for job_id in job_ids if self._client.start_now(job_id)]


def require_accepted(problem: str) -> None:
    """Raise the error for a cancellation that Slurm has not accepted.

    Args:
        problem: Slurm's reason; empty when it was accepted.

    Raises:
        SchedulerError: it was not.
    """
    if problem == SILENCE:
        raise SchedulerError("scancel did not answer", hint=f"{RESUME} {sbatch.WHEN_SLURM_ANSWERS}")
    if problem:
        raise SchedulerError(
            f"Slurm refused to cancel: {problem}",
            hint="only the owner of a job, or an operator, may cancel it",
        )


def no_answer() -> SchedulerError:
    """Return the error of a machine on which Slurm answers no query."""
    return SchedulerError(
        "Slurm does not answer on this machine",
        hint="log in to the cluster; `sinfo` shows whether Slurm answers",
    )


@contextmanager
def translated() -> Iterator[None]:
    """Translate an error of the node side into ours.

    Raises:
        SchedulerError: with the same message and hint.
    """
    try:
        yield
    except SubmitError as error:
        raise SchedulerError(error.message, hint=error.hint) from error


def scripts(plan: Plan, stage: StagePlan, run: RunDir) -> Iterator[tuple[str, str]]:
    """Yield title and text of each script of a stage's first submission."""
    names = [other.stage for other in plan.stages]
    indices = [task.index for task in stage.tasks]
    requests = [
        replace(
            submission_of(plan, part, run.root, some, attempt),
            after=tuple(f"<{name}>" for name in part.after if name in names),
        )
        for attempt, (part, some) in enumerate(early.parts(stage, indices, names, ()), 1)
    ]
    parts = [part for request in requests for part in submission.chunks(request)]
    for number, part in enumerate(parts, 1):
        title = (
            f"{stage.stage}: script {number} of {len(parts)}, {plural(len(part.indices), 'task')}"
        )
        yield title, submission.script(run, part)
    for request in requests:
        if request.recovery_job is not None:
            title = f"{stage.stage}: recovery job"
            yield title, submission.recovery_job_script(run, request, [f"<{stage.stage}>"])


def refuse_path(plan: Plan, run: Path) -> None:
    """Refuse a run directory whose path would be read as something else on its way to a node.

    Raises:
        ConfigError: naming the characters.
    """
    commands = [(*task.python, *task.srun_args) for stage in plan.stages for task in stage.tasks]
    mounted = any(RUN in word for command in commands for word in command)
    forbidden = UNMOUNTABLE if mounted else UNWRITABLE
    characters = sorted(set(re.findall(forbidden, str(run))))
    if characters:
        raise ConfigError(
            f"the run directory {str(run)!r} has {' '.join(map(repr, characters))} in its path, "
            "which Slurm or Python would not take literally",
            hint="name another place with --runs-dir",
        )


def submission_of(
    plan: Plan, stage: StagePlan, run: Path, indices: Sequence[int], attempt: int
) -> Submission:
    """Return the submission of some tasks of a stage. Pure."""
    recovery_job, lead = plan.site.recovery_job, plan.lead
    is_measured = lead is not None and lead.is_computed if stage.stage == PRETRAIN else True
    return Submission(
        stage=stage.stage,
        indices=tuple(indices),
        attempt=attempt,
        python=plan.site.python or sys.executable,
        environment=plan.site.environment,
        parameters={
            **parameters(plan, stage.resources, run),
            "array_parallelism": stage.max_parallel,
        },
        lead_seconds=stage.resources.signal_lead_seconds,
        measures_lead=stage.stage in TRAINING_STAGES and is_measured,
        longest_array=max(len(chunk) for chunk in stage.chunks),
        recovery_job=None if recovery_job is None else parameters(plan, recovery_job, run),
        exclude=stage.exclude,
    )


def parameters(plan: Plan, resources: Resources, run: Path) -> dict[str, Any]:
    """Return submitit's parameters for these resources; empty values are left out."""
    setup = [
        *plan.site.setup,
        f"export PYTHONPATH={shlex.quote(str(RunDir(run).code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]
    named = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "mem": f"{resources.memory_gb}G" if resources.memory_gb else "",
    }
    return {
        "time": resources.time_minutes,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.ranks_per_node,
        "cpus_per_task": resources.cpus_per_rank,
        "setup": setup,
        **{key: value for key, value in named.items() if value},
        **gpu_parameters(resources),
        "additional_parameters": {
            **dict(plan.site.sbatch),
            **({} if plan.site.requeue else {"no-requeue": True}),
        },
    }


def gpu_parameters(resources: Resources) -> dict[str, Any]:
    """Return the request for GPUs, by number or by typed gres where the site has types."""
    if not resources.gpus_per_node:
        return {}
    if resources.gpu_type:
        return {"gres": f"gpu:{resources.gpu_type}:{resources.gpus_per_node}"}
    return {"gpus_per_node": resources.gpus_per_node}
