"""This machine as a cluster: one background process per attempt (``local_job``), and submitit's
local executor for its tasks. A job's id identifies the process: ``local:<host>:<pid>:<start>``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from jobs.contract.attempt_history import RunHistory
from jobs.contract.errors import RESUME
from jobs.contract.events import IntentEvent, SubmitEvent
from jobs.contract.files import FormatError, read_json, write_json
from jobs.contract.job import usable_cores
from jobs.contract.rundir import RunDir
from jobs.contract.units import plural
from jobs.slurm.job_environment import job_environment
from jobs.supervision.ranks import local_ranks
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.scheduler.base import JobInfo, JobState
from meditron_cli.scheduler.local_sessions import (
    PREFIX,
    all_pids,
    command_line,
    members,
    pid_of,
    send_signal,
    state_of,
    wait_for_sessions,
)

JOB_FILE = "local-job.json"
CANCEL_SECONDS = 75.0
"""Least time for a cancelled job to save and exit."""
BEYOND_LEAD_SECONDS = 30.0
"""For the supervisors of a job to give up on its ranks, and to record it."""
KILL_SECONDS = 10.0


class LocalScheduler:
    """Jobs as processes of this machine."""

    def __init__(
        self, cancel_seconds: float | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Create a scheduler whose jobs inherit ``environ`` and have ``cancel_seconds`` to exit
        once cancelled (default: a little more than their signal lead time).
        """
        self._cancel_seconds = cancel_seconds
        self._environ = environ
        self._started: list[subprocess.Popen[bytes]] = []  # to be reaped

    def require_answer(self) -> None:
        """Return at once: this machine answers."""

    def render(self, plan: Plan, run: Path) -> str:
        """Return the command of every stage after its variables; equal inputs give equal bytes."""
        lines = [f"# on this machine, in {run / 'code'}", *plan.site.setup]
        for stage in plan.stages:
            command = shlex.join(runner_command(plan, job_file(run, stage.stage, 1)))
            after = f"  # after {', '.join(stage.after)}" if stage.after else ""
            ranks = plural(stage.tasks[0].ranks, "rank")
            lines.append(f"# {stage.stage}: {plural(len(stage.tasks), 'task')} of {ranks}")
            lines.append(command + after)
        return "\n".join(lines) + "\n"

    def submit(
        self,
        plan: Plan,
        stage: StagePlan,
        indices: Sequence[int],
        run: Path,
        attempt: int,
        after: Sequence[str],
    ) -> list[str]:
        """Start the background process of an attempt; its one id is that of all its tasks."""
        path = job_file(run, stage.stage, attempt)
        write_json(
            path,
            {
                "stage": stage.stage,
                "host": os.uname().nodename,
                "indices": list(indices),
                "attempt": attempt,
                "after_jobs": list(after),
                "after_stages": list(stage.after) if after else [],
                "time_minutes": stage.resources.time_minutes,
                "lead_seconds": stage.resources.signal_lead_seconds,
                "gpus": stage.resources.gpus_per_node,
                "parallel": parallel_tasks(stage),
            },
        )
        try:
            with (path.parent / "runner.log").open("ab") as output:
                process = subprocess.Popen(
                    runner_command(plan, path),
                    cwd=run / "code",
                    env=runner_environment(plan, stage, run, self._environ),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise SchedulerError(
                f"{stage.stage} was not started: {error.filename}: {error.strerror}",
                hint="environment.python of the cluster profile names the interpreter",
            ) from error
        self._started.append(process)
        return [PREFIX + local_ranks.process_name(process.pid)]

    def submit_recovery_job(
        self, plan: Plan, stage: StagePlan, run: Path, attempt: int, job_ids: Sequence[str]
    ) -> list[str]:
        """Return nothing: supervisors restart their ranks in place."""
        return []

    def adopt(self, run: RunDir, intent: IntentEvent, history: RunHistory) -> SubmitEvent | None:
        """Return None: a process whose id was not recorded is ended, and the next one resumes."""
        return None

    def node_names(self, partition: str) -> tuple[str, ...] | None:
        """Return None: there is only this machine."""
        return None

    def withdraw(self, run: RunDir, intent: IntentEvent, failure: str = "") -> None:
        """Cancel the background process of a submission, if one was started.

        Raises:
            SchedulerError: it was started on another machine.
        """
        path = job_file(run.root, intent.stage, intent.attempt)
        if not path.exists():
            return
        host = read_json(path)["host"]
        if host != os.uname().nodename:
            raise SchedulerError(
                f"{intent.stage} was being submitted on {host}, and may run there",
                hint=f"{RESUME} on {host}",
            )
        pids = [pid for pid in all_pids() if is_runner(pid, run, path)]
        self.cancel(run.name, [PREFIX + local_ranks.process_name(pid) for pid in pids])

    def states(self, jobs: Mapping[str, Collection[str]]) -> dict[str, dict[str, JobInfo]]:
        """Return ACTIVE while a process of the job exists, else ENDED; UNKNOWN elsewhere."""
        self._started = [process for process in self._started if process.poll() is None]
        return {
            run: {name: JobInfo(name, state, state.value) for name, state in map(state_of, ids)}
            for run, ids in jobs.items()
        }

    def release(self, job_ids: Collection[str]) -> list[str]:
        """Return nothing: no local job is held."""
        return []

    def start_now(self, job_ids: Collection[str]) -> list[str]:
        """Return nothing: no local job waits for a start time."""
        return []

    def cancel(
        self, run: str, job_ids: Collection[str], accepted: Callable[[], None] = lambda: None
    ) -> None:
        """Request each job to stop, which stops its tasks; kill what remains after a while.

        Raises:
            SchedulerError: a job runs on another machine, or belongs to another user.
        """
        states = self.states({run: job_ids})[run]
        for name in job_ids:
            if states[name].state is JobState.UNKNOWN:
                raise SchedulerError(
                    f"job {name} was started on another machine", hint="cancel the run there"
                )
        leaders = [pid_of(name) for name in job_ids if states[name].state is JobState.ACTIVE]
        seconds = self._cancel_seconds or max(map(exit_timeout, leaders), default=CANCEL_SECONDS)
        send_signal(leaders, signal.SIGTERM)
        accepted()
        wait_for_sessions(leaders, seconds)
        send_signal(members(leaders), signal.SIGKILL)
        wait_for_sessions(leaders, KILL_SECONDS)


def runner_command(plan: Plan, path: Path) -> list[str]:
    """Return the command of the background process of an attempt."""
    python = plan.site.python or sys.executable
    return [python, "-m", "meditron_cli.scheduler.local_job", str(path)]


def runner_environment(
    plan: Plan, stage: StagePlan, run: Path, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables of that process: those that any job inherits, the run's own code, the
    profile's settings, this machine's cores divided among the ranks that run at once.

    A thread that waits for another sleeps: whoever sits at this machine needs the cores, too. On a
    busy machine the threads that spin took five times the processor time of an export (measured).
    """
    ranks = parallel_tasks(stage) * stage.tasks[0].ranks
    settings = variables(plan.site.setup)
    path = [str(run / "code"), *filter(None, [settings.pop("PYTHONPATH", "")])]
    return {
        "OMP_NUM_THREADS": str(max(1, usable_cores() // ranks)),
        "OMP_WAIT_POLICY": "passive",
        **job_environment(plan.site.environment, environ),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
        **settings,
    }


def variables(setup: Sequence[str]) -> dict[str, str]:
    """Return name and value of a profile's ``export`` lines, the only ones without Slurm."""
    pairs = (shlex.split(line)[1].partition("=") for line in setup)
    return {name: value for name, _, value in pairs}


def job_file(run: Path, stage: str, attempt: int) -> Path:
    """Return the path of the background process's input."""
    return RunDir(run).attempt(stage, attempt) / JOB_FILE


def parallel_tasks(stage: StagePlan) -> int:
    """Return how many tasks fit this machine's cores at once; one with GPUs, since all tasks would
    get the same ones.
    """
    task = stage.tasks[0]
    if task.gpus_per_node:
        return 1
    fitting = usable_cores() // (task.ranks * task.cpus_per_rank)
    return max(1, min(stage.max_parallel, fitting))


def exit_timeout(pid: int) -> float:
    """Return the seconds a job may take to save and exit, from its background process's input."""
    arguments = command_line(pid)
    path = Path(os.fsdecode(arguments[-2])) if len(arguments) > 1 else Path()
    if path.name != JOB_FILE:  # it was killed, and only its tasks are left
        return CANCEL_SECONDS
    try:
        lead = float(read_json(path)["lead_seconds"])
    except (OSError, FormatError):  # the run directory was moved
        return CANCEL_SECONDS
    return max(CANCEL_SECONDS, lead + BEYOND_LEAD_SECONDS)


def is_runner(pid: int, run: RunDir, path: Path) -> bool:
    """Return whether a process is the background process of a job file of this run.

    Its working folder identifies the run: unlike the path in its command, that is the same folder
    after the runs directory was renamed, and through a symbolic link.
    """
    arguments = command_line(pid)
    name = os.fsencode(path.relative_to(run.root))
    if len(arguments) < 2 or not arguments[-2].endswith(b"/" + name):
        return False
    try:
        return os.path.samefile(f"/proc/{pid}/cwd", run.root / "code")
    except OSError:  # it has ended, or belongs to another user
        return False
