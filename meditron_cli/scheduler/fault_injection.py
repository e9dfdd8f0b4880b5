"""Faults that a drill injects into its own running job, with the rights of the job's owner."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from typing import Protocol

from jobs.contract.rundir import RunDir
from jobs.slurm.client import Client
from jobs.slurm.job_environment import command_environment
from jobs.slurm.steps import one_per_node
from jobs.supervision.ranks import fault_injection
from meditron_cli.errors import SchedulerError

STEP_SECONDS = 60.0
"""For a small step on every node of a job to start and end; as long as a preflight check has."""
MINUTES_LEFT = 1
"""Of the lowered time limit, beyond the minute that has begun: time enough to save a tiny model."""


class FaultInjector(Protocol):
    """Faults of a run's job."""

    def preempt(self, run: RunDir, job_id: str) -> None:
        """Preempt the job, which the scheduler starts again later."""
        ...

    def lower_limit(self, run: RunDir, job_id: str) -> None:
        """Lower the job's time limit to a few minutes from now."""
        ...

    def signal_rank(self, run: RunDir, job_id: str, word: str, rank: int) -> str:
        """Send ``kill`` or ``freeze`` to a rank of training; return its node, or nothing if it was
        not found.
        """
        ...


class SlurmFaultInjector:
    """Faults of a job in Slurm. A job with the id that is not of the run is not touched: an id may
    be given again (a wrapped id, a wiped StateSaveLocation).
    """

    def __init__(self, python: str, environ: Mapping[str, str] = os.environ) -> None:
        self._python = python
        self._environ = environ
        self._client = Client(environ)

    def preempt(self, run: RunDir, job_id: str) -> None:
        """Requeue the job, which its owner may (measured on Slurm 22.05).

        Raises:
            SchedulerError: Slurm refuses it, or the job is not of the run.
        """
        self._require_own(run, job_id)
        if not self._client.requeue(job_id):
            raise SchedulerError(
                f"Slurm does not queue job {job_id} again",
                hint="a site without requeue cannot be drilled for it: leave preempt out of "
                "--faults",
            )

    def lower_limit(self, run: RunDir, job_id: str) -> None:
        """Lower the job's time limit, which its owner may.

        Raises:
            SchedulerError: Slurm refuses it, or the job is not of the run.
        """
        self._require_own(run, job_id)
        facts = self._client.job(job_id)
        if facts is None or facts.start_time is None:
            raise SchedulerError(f"Slurm does not report when job {job_id} started")
        minutes = math.ceil((time.time() - facts.start_time) / 60) + MINUTES_LEFT
        self._call(["scontrol", "update", f"JobId={job_id}", f"TimeLimit={minutes}"], {})

    def signal_rank(self, run: RunDir, job_id: str, word: str, rank: int) -> str:
        """Run ``jobs.supervision.ranks.fault_injection`` once on every node of the job, beside its
        ranks.

        Raises:
            SchedulerError: no step can be started there, or the job is not of the run.
        """
        self._require_own(run, job_id)
        facts = self._client.job(job_id)
        nodes = len(facts.nodes) if facts else 1
        step = one_per_node(nodes, f"--jobid={job_id}", "--overlap")
        command = [
            self._python,
            "-m",
            "jobs.supervision.ranks.fault_injection",
            str(run.root),
            word,
            str(rank),
        ]
        code = {"PYTHONPATH": str(run.code), "PYTHONSAFEPATH": "1"}
        return self._call([*step, *command], code).strip()

    def _require_own(self, run: RunDir, job_id: str) -> None:
        """Refuse a job that is not in the queue as this run's.

        Raises:
            SchedulerError: it is not, or squeue does not answer.
        """
        queued = self._client.queued_of_run(run.name, [job_id])
        if queued is None:
            raise SchedulerError(
                f"squeue does not report whether job {job_id} is of run {run.name}",
                hint="`squeue` shows whether Slurm answers on this machine",
            )
        if not queued:
            raise SchedulerError(f"no job {job_id} of run {run.name} is in the queue")

    def _call(self, command: list[str], more: Mapping[str, str]) -> str:
        try:
            result = subprocess.run(
                command,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=STEP_SECONDS,
                env={**command_environment(self._environ), **more},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SchedulerError(f"{command[0]} did not answer: {error}") from error
        if result.returncode != 0:
            lines = result.stderr.strip().splitlines()
            raise SchedulerError(f"{command[0]}: {lines[-1] if lines else 'it gave no reason'}")
        return result.stdout


class LocalFaultInjector:
    """Faults of a job on this machine, which has no queue and no time limit."""

    def preempt(self, run: RunDir, job_id: str) -> None:
        """Refuse: this machine does not preempt.

        Raises:
            SchedulerError: always.
        """
        raise SchedulerError("this machine preempts no job")

    def lower_limit(self, run: RunDir, job_id: str) -> None:
        """Refuse: this machine has no time limits.

        Raises:
            SchedulerError: always.
        """
        raise SchedulerError("this machine limits no job's time")

    def signal_rank(self, run: RunDir, job_id: str, word: str, rank: int) -> str:
        number: signal.Signals = fault_injection.SIGNALS[word]
        return os.uname().nodename if fault_injection.strike(run, number, rank, os.environ) else ""


def make_injector(kind: str, python: str, environ: Mapping[str, str]) -> FaultInjector:
    """Return the fault injector for a scheduler, ``slurm`` or ``local``."""
    return SlurmFaultInjector(python, environ) if kind == "slurm" else LocalFaultInjector()
