"""Run ranks as one srun step of the job."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract import rundir, specs
from jobs.runtime.log import log
from jobs.slurm import srun_output
from jobs.supervision.attempt_records import AttemptRef

if TYPE_CHECKING:
    from jobs.slurm.client import Client


STEP_GONE_SECONDS = 90.0
"""Slurm's UnkillableStepTimeout is 60 s by default (slurm.conf(5))."""


SRUN_SECONDS = 30.0
"""For srun to report its tasks once its step is gone (guessed)."""


QUERY_SECONDS = 2.0
"""Between two queries about a step."""


REBOOT_SECONDS = 5.0
"""Between two queries for rebooted nodes, once a rank has failed (guessed)."""


class Step:
    """A named step of the surrounding job, whatever its number."""

    def __init__(self, client: Client, job_id: str, name: str) -> None:
        self._client = client
        self._job_id = job_id
        self._name = name

    def request_exit(self) -> bool:
        """Request SIGTERM for the job's steps; return whether Slurm accepted."""
        return self._client.signal_ranks(self._job_id, "TERM")

    def end(self) -> bool:
        """Cancel the step, wherever anything of it is left, and nothing else of the job; return
        whether Slurm reports that nothing was left.
        """
        left = self._client.step_ids(self._job_id, self._name)
        for step_id in left or ():
            self._client.end_step(step_id)
        return left == []

    def is_stale(self) -> bool:
        """Return whether a node of the job has rebooted. It never reports the end of the step, so
        that Slurm lists the step, and srun waits for it, although its ranks are gone.
        """
        return bool(self._client.rebooted_nodes(self._client.job(self._job_id)))

    def is_gone(self, seconds: float = STEP_GONE_SECONDS) -> bool:
        """Cancel what is left of the step; return whether nothing is left after ``seconds`` at
        most.

        Without a response from Slurm it may be left. A stale step is not waited for.
        """
        deadline = time.monotonic() + seconds
        while not self.end():
            if time.monotonic() > deadline or self.is_stale():
                return False
            time.sleep(QUERY_SECONDS)
        return True


class SrunRanks:
    """Ranks as one srun step of the surrounding job."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], step: Step, log_path: Path
    ) -> None:
        self._step = step
        self._log_path = log_path
        self._alone_since = float("inf")
        self._reboot_at = 0.0
        with log_path.open("wb") as file:
            self._process = subprocess.Popen(command, env=dict(environment), stderr=file)

    def poll(self) -> int | None:
        """Return None while the step runs, then 0 or the code of the first rank that failed."""
        code = self._process.poll()
        if code is None and self._is_waiting_in_vain():
            self._process.kill()
        if not code:
            return code
        return srun_output.first_failure(self._output()) or code

    def stop(self) -> bool:
        """Have Slurm send SIGTERM to the ranks; return whether it accepted.

        Signals to srun itself would abort the step.
        """
        return self._step.request_exit()

    def end(self) -> None:
        """Cancel the step, and kill an srun that stays although its step is gone."""
        now = time.monotonic()
        self._alone_since = min(self._alone_since, now) if self._step.end() else float("inf")
        if now - self._alone_since > SRUN_SECONDS or self._step.is_stale():
            self._process.kill()

    def failures(self) -> list[srun_output.FailedTask]:
        """Return the tasks that srun reports as failed."""
        output = self._output()
        log(output.rstrip("\n"))
        return srun_output.failures(output)

    def _is_waiting_in_vain(self) -> bool:
        """Return whether srun has reported a failed rank and waits for ranks of a node that has
        rebooted.
        """
        now = time.monotonic()
        if now < self._reboot_at:
            return False
        self._reboot_at = now + REBOOT_SECONDS
        return srun_output.first_failure(self._output()) is not None and self._step.is_stale()

    def _output(self) -> str:
        """Return srun's log; empty where it cannot be read: an error would abandon the ranks."""
        try:
            return self._log_path.read_text(errors="replace")
        except OSError:
            return ""


def fill(words: Sequence[str], run: rundir.RunDir) -> list[str]:
    """Replace the placeholder for the run directory in a command."""
    return [word.replace(specs.RUN, str(run.root)) for word in words]


def srun_command(attempt: AttemptRef, task: specs.TaskSpec) -> list[str]:
    """Return srun's part of the command; block distribution puts rank 0 on the batch host."""
    return [
        "srun",
        f"--job-name={attempt.step_name}",
        f"--ntasks={task.ranks}",
        f"--ntasks-per-node={task.ranks_per_node}",
        f"--cpus-per-task={task.cpus_per_rank}",
        "--distribution=block",
        "--kill-on-bad-exit=1",
        "--wait=60",
        "--unbuffered",
        "--label",
        f"--output={attempt.ranks_log}",
        "--open-mode=append",
        *fill(task.srun_args, attempt.run),
    ]
