"""This machine as a cluster: a background process an attempt, submitit's local executor for its
tasks.

``python -m meditron_cli.scheduler.local JOB_FILE`` is that process. It waits for the jobs it
depends on,
runs the tasks a few at a time, and ends. Its id is its pid and start time, so that a reused pid is
not
mistaken for it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from jobs import rundir, specs
from meditron_cli.errors import SchedulerError
from meditron_cli.plan.model import Plan, StagePlan
from meditron_cli.scheduler.base import JobInfo, JobState

PREFIX = "local"
POLL_SECONDS = 0.1
CANCEL_SECONDS = 60.0
"""How long a cancelled job may take to save and leave before it is killed."""


class LocalScheduler:
    """Jobs as processes of this machine."""

    def render(self, plan: Plan, run: Path) -> str:
        """The command of every stage, after its variables; equal inputs give equal bytes."""
        lines = [f"# on this machine, in {run / 'code'}", *plan.site.setup]
        for stage in plan.stages:
            name = job_file(run, stage.stage, 1)
            after = f"  # after {', '.join(stage.after)}" if stage.after else ""
            lines.append(
                f"# {stage.stage}: {len(stage.tasks)} tasks of {stage.tasks[0].ranks} ranks"
            )
            lines.append(" ".join([*runner_command(plan, name)]) + after)
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
        """Start the background process of an attempt; its one id stands for all its tasks."""
        path = job_file(run, stage.stage, attempt)
        task = stage.tasks[0]
        rundir.write_json(
            path,
            {
                "stage": stage.stage,
                "indices": list(indices),
                "attempt": attempt,
                "after_jobs": list(after),
                "after_stages": list(stage.after) if after else [],
                "time_minutes": stage.resources.time_minutes,
                "gpus": task.gpus_per_node,
                "parallel": parallel_tasks(stage),
            },
        )
        environ = {**os.environ, "PYTHONPATH": str(run / "code"), "PYTHONSAFEPATH": "1"}
        environ.update(variables(plan.site.setup))
        with (path.parent / "runner.log").open("ab") as log:
            process = subprocess.Popen(
                runner_command(plan, path),
                cwd=run / "code",
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return [job_id(process.pid)]

    def states(self, job_ids: Sequence[str]) -> dict[str, JobInfo]:
        """ACTIVE while the process is there, else ENDED."""
        found = {}
        for name in job_ids:
            state = JobState.ACTIVE if alive(name) else JobState.ENDED
            found[name] = JobInfo(name, state, state.value)
        return found

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Ask each process to stop, which stops its tasks; kill what is left after a minute."""
        import psutil

        trees = {}
        for name in filter(alive, job_ids):
            process = psutil.Process(pid_of(name))
            trees[name] = [process, *process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + CANCEL_SECONDS
        while any(map(alive, trees)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        left = [process for tree in trees.values() for process in tree if process.is_running()]
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=10)


def runner_command(plan: Plan, path: Path) -> list[str]:
    """The background process of an attempt."""
    python = plan.site.python or sys.executable
    return [python, "-m", "meditron_cli.scheduler.local", str(path)]


def variables(setup: Sequence[str]) -> dict[str, str]:
    """NAME and value of the ``export`` lines of a profile; other lines need a shell and stay
    behind.
    """
    import shlex

    words = [shlex.split(line) for line in setup]
    pairs = [word[1].split("=", 1) for word in words if len(word) == 2 and word[0] == "export"]
    return {pair[0]: pair[1] for pair in pairs}


def job_file(run: Path, stage: str, attempt: int) -> Path:
    """What the background process is given."""
    return rundir.RunDir(run).attempt(stage, attempt) / "local-job.json"


def parallel_tasks(stage: StagePlan) -> int:
    """How many tasks fit this machine's cores at once."""
    task = stage.tasks[0]
    return max(
        1, min(stage.max_parallel, (os.cpu_count() or 1) // (task.ranks * task.cpus_per_rank))
    )


def job_id(pid: int) -> str:
    """``local:<pid>:<start time>``.

    Raises:
        SchedulerError: the process is already gone.
    """
    import psutil

    try:
        return f"{PREFIX}:{pid}:{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess as error:
        raise SchedulerError(f"the local scheduler's process {pid} ended at once") from error


def pid_of(name: str) -> int:
    """The process of a job id."""
    return int(name.split(":")[1])


def alive(name: str) -> bool:
    """Whether the very process a job id names is still there, and no zombie."""
    import psutil

    try:
        process = psutil.Process(pid_of(name))
        same = abs(process.create_time() - float(name.split(":")[2])) < 1.0
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Runner:
    """The background process: wait, run the tasks, end."""

    def __init__(self, path: Path) -> None:
        self.job = rundir.read_json(path)
        self.stage: str = self.job["stage"]
        self.run = rundir.RunDir(path.parents[4])
        self.folder = path.parent
        self.stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def main(self) -> int:
        """0 when all tasks were run, 1 when this was stopped or had nothing to build on."""
        while any(map(alive, self.job["after_jobs"])):
            if self.stopping:
                return 1
            time.sleep(POLL_SECONDS)
        missing = [name for name in self.job["after_stages"] if not finished(self.run, name)]
        if missing:
            rundir.append_event(self.run, "blocked", stage=self.stage, after=missing)
            sys.stderr.write(f"{self.stage} was not started: {missing[0]} did not finish\n")
            return 1
        return self.work()

    def work(self) -> int:
        """Run the tasks, ``parallel`` at a time; on a stop request end those that run."""
        import submitit

        from jobs import entry

        os.environ["MEDITRON_LOCAL_SCHEDULER"] = str(os.getpid())
        executor = submitit.LocalExecutor(self.folder)
        executor.update_parameters(
            timeout_min=self.job["time_minutes"],
            gpus_per_node=self.job["gpus"],
            stderr_to_stdout=True,
        )
        waiting = list(self.job["indices"])
        running: list[Any] = []
        while running or (waiting and not self.stopping):
            while waiting and len(running) < self.job["parallel"] and not self.stopping:
                index = str(waiting.pop(0))
                attempt = str(self.job["attempt"])
                running.append(
                    executor.submit(entry.run_task, str(self.run.root), self.stage, index, attempt)
                )
            running = [job for job in running if not job.done()]
            if self.stopping:
                self.end(running)
                return 1
            time.sleep(POLL_SECONDS)
        return 0

    def end(self, running: list[Any]) -> None:
        """Pass the stop request to each task's controller, whose pid is its job id, and wait."""
        for job in running:
            os.kill(int(job.job_id), signal.SIGTERM)
        while not all(job.done() for job in running):
            time.sleep(POLL_SECONDS)


def finished(run: rundir.RunDir, stage: str) -> bool:
    """Whether every task of a stage is done."""
    indices = [int(path.stem) for path in (run.stage(stage) / "spec").glob("*.json")]
    tasks = {i: specs.task_from_json(rundir.read_json(run.spec(stage, i))) for i in indices}
    return bool(tasks) and all(
        rundir.is_done(run, stage, index, specs.digest(task.spec)) for index, task in tasks.items()
    )


if __name__ == "__main__":
    sys.exit(Runner(Path(sys.argv[1])).main())
