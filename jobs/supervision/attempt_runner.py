"""Run one attempt of a task: check its nodes, start its ranks, monitor them until all are gone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from jobs.contract import metrics_log, specs
from jobs.contract.errors import FINISHED
from jobs.contract.outcomes import Hang
from jobs.notification.sender import WAIT_SECONDS, Sender
from jobs.runtime import cgroups
from jobs.runtime.log import log
from jobs.supervision import attempt_records, early_readers, node_monitors, preflight_step
from jobs.supervision.alarms.health_watch import HealthWatch
from jobs.supervision.allocation import Allocation
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import Observed
from jobs.supervision.ranks import (
    collectives,
    hang_attribution,
    hang_detector,
    launcher,
    local_ranks,
    srun_ranks,
    stack_dump,
)
from jobs.supervision.ranks.rank_monitor import MonitorInputs, RankMonitor

STACK_DUMP_SECONDS = 60.0
"""For all nodes to examine their ranks."""


@dataclass(frozen=True)
class Limits:
    """The time limits of a supervisor."""

    lock_seconds: float = 60.0
    """For an earlier attempt of the same task to end."""
    preflight_seconds: float = 60.0
    peers_seconds: float = local_ranks.LeaveTimeouts.peers_seconds
    leave_seconds: float = local_ranks.LeaveTimeouts.leave_seconds
    notify_seconds: float = WAIT_SECONDS
    """For what is being sent when the supervisor ends."""

    def leave_timeouts(
        self, task: specs.TaskSpec, step_times: metrics_log.StepTimes | None = None
    ) -> local_ranks.LeaveTimeouts:
        """Return the timeouts of the ranks: the longest of ours, the task's, and the measured time
        of its saves.
        """
        measured = step_times.leave_seconds + metrics_log.MARGIN_SECONDS if step_times else 0.0
        leave_seconds = max(self.leave_seconds, task.leave_seconds, measured)
        return local_ranks.LeaveTimeouts(self.peers_seconds, leave_seconds)


@dataclass(frozen=True)
class AttemptRunner:
    """One attempt in an allocation, from its preflight check to the end of its ranks."""

    attempt: AttemptRef
    task: specs.TaskSpec
    allocation: Allocation
    limits: Limits
    signals: Sequence[int]
    """Received by the supervisor so far."""
    is_stop_requested: Callable[[], bool]
    metrics: metrics_log.MetricsReader
    """Of the task's stage."""
    sender: Sender

    def run(self, environ: Mapping[str, str]) -> Observed:
        """Run the attempt; remove its temporary files afterwards.

        Args:
            environ: of the ranks, with the secrets.

        Raises:
            OSError: a program that is needed is missing, or the disk takes nothing.
        """
        with ExitStack() as stack:
            if self.task.scratch_dir:
                stack.callback(preflight_step.remove_scratch, self.attempt, self.task)
            return self._check_and_run(environ)

    def _check_and_run(self, environ: Mapping[str, str]) -> Observed:
        timeout = preflight_step.PreflightTimeout(self.limits.preflight_seconds, self.signals)
        nodes = self.allocation.job.nodes  # without the secrets, which only ranks need
        preflight = preflight_step.check(self.attempt, self.task, nodes, os.environ, timeout)
        if preflight.problem:
            return Observed(
                findings=preflight.findings,
                message=preflight.problem,
                hint=preflight.hint,
                is_configuration_error=preflight.is_configuration_error,
            )
        if self.is_stop_requested():
            return Observed(
                findings=preflight.findings,
                message=f"{self.task.stage} was stopped before its ranks started",
            )
        if self.task.scratch_dir:
            scratch = str(preflight_step.scratch(self.attempt, self.task))
            environ = {**environ, "TMPDIR": scratch}
        kills_before = cgroups.oom_kills() or 0
        metrics, sender = self.metrics.current, self.sender
        watch = HealthWatch(self.attempt, self.task, nodes, metrics, sender)
        monitors = node_monitors.running(self.attempt, self.task, os.environ)
        with launcher.reserved_port() as port, monitors:
            observed = self._run_ranks(environ, port, watch)
        kills = (cgroups.oom_kills() or 0) - kills_before
        findings = (*preflight.findings, *watch.findings())
        return replace(observed, findings=findings, oom_kills=max(0, kills))

    def _run_ranks(self, environ: Mapping[str, str], port: int, watch: HealthWatch) -> Observed:
        """Start the ranks and wait until none is left."""
        attempt, task = self.attempt, self.task
        environ = {**environ, **launcher.rank_environment(attempt, task, environ, port)}
        metrics = self.metrics.current()
        timeouts = self.limits.leave_timeouts(task, metrics.step_times(task.training))
        step = self._step()
        ranks = launcher.start(attempt, task, environ, timeouts, step)
        learned = hang_detector.learn(metrics)
        detector = hang_detector.HangDetector(attempt.run, task, attempt.number, learned, environ)
        inputs = MonitorInputs(
            signals=self.signals,
            is_stop_requested=self.is_stop_requested,
            deadline=self.allocation.deadline,
            find_hang=detector.check,
            health_request=watch.request,
            examine=self._examine,
            record_request=lambda: attempt_records.record_signal(attempt, self.signals),
        )
        monitor = RankMonitor(ranks, inputs, timeouts.leave_seconds)
        with early_readers.released_meanwhile(task, attempt.run, self.allocation.client):
            code = monitor.wait()
        failures = tuple(ranks.failures())
        is_gone = step is None or is_finished(attempt, task, code) or step.is_gone()
        return Observed(
            code,
            ranks_started=True,
            ranks_gone=is_gone,
            failures=failures,
            signals=(int(signal.SIGUSR2),) if monitor.is_late else (),
            preempted=monitor.is_preempted,
            hang=monitor.hang,
            left_for=monitor.left_for,
        )

    def _step(self) -> srun_ranks.Step | None:
        """Return the job step of the ranks; None without Slurm."""
        client, job = self.allocation.client, self.allocation.job
        if client is None:
            return None
        return srun_ranks.Step(client, job.job_id, self.attempt.step_name)

    def _examine(self, hang: Hang) -> Hang:
        """Collect the stacks of hanging ranks from all nodes; name the rank that stopped first."""
        attempt = self.attempt
        names = (attempt.run, attempt.stage, attempt.index, attempt.number)
        prefix = preflight_step.beside_ranks(self.task, f"stack-dump-{attempt.step_name}")
        environment = {**os.environ, **launcher.code_environment(attempt.run, os.environ)}
        try:
            subprocess.run(
                [*prefix, *stack_dump.command(*names)],
                env=environment,
                stdin=subprocess.DEVNULL,
                timeout=STACK_DUMP_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            log(f"not all ranks could be examined: {error}")
        return hang_attribution.attribute(
            hang,
            stack_dump.read(*names),
            collectives.read(attempt.folder, attempt.index),
            self.allocation.job.nodes,
            self.task.ranks,
        )


def is_finished(attempt: AttemptRef, task: specs.TaskSpec, code: int | None) -> bool:
    """Return whether the ranks exited with 0 and the done marker is valid, so that Slurm need not
    be queried about the attempt.
    """
    return code == FINISHED and evidence_collection.is_done(attempt, task)
