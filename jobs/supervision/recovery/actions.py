"""Execute a retry decision: exit, restart in place, requeue, or resubmit. Standard library only,
and submitit inside the one function that submits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from jobs.contract.errors import FAILED, STOPPED, SUCCESSOR
from jobs.contract.files import last_change
from jobs.contract.outcomes import Decision, RetryAction
from jobs.contract.run_reader import RunReader
from jobs.runtime.log import log
from jobs.runtime.storage import (
    STORAGE_SECONDS,
    is_removed,
    retry_until_written,
    wait_until_writable,
)
from jobs.slurm.submission import SubmitError
from jobs.supervision.allocation import Allocation
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.recovery import resubmission

POLL_SECONDS = 0.2
CHECK_SECONDS = 2.0
"""Between two checks of the run's files."""
REQUEUE_SECONDS = 600.0
"""For Slurm to end a job that it has taken back: KillWait, and a slurmctld that is busy (guess)."""


@dataclass
class ActionRunner:
    """Executes the decision about an attempt whose ranks are gone."""

    attempt: AttemptRef
    allocation: Allocation
    reader: RunReader
    is_interrupted: Callable[[], bool]
    """Returns whether a stop is requested, by a signal or otherwise."""
    requeue_seconds: float = REQUEUE_SECONDS
    storage_seconds: float = STORAGE_SECONDS
    """To wait for the storage at most: to record the exit and to submit, together."""

    def __post_init__(self) -> None:
        self._storage_deadline = time.monotonic() + self.storage_seconds

    def execute(self, decision: Decision) -> int | None:
        """Execute a decision; return the exit code, or None to start the ranks again here."""
        action = decision.action
        if action in (RetryAction.FINISH, RetryAction.STOP, RetryAction.WAIT):
            return decision.code
        if action is RetryAction.RESTART or self.allocation.client is None:
            self._pause(decision.delay)
            return None
        if action is RetryAction.REQUEUE and self._requeue():
            self._wait_for_requeue()
        return self._submit(decision)

    def _pause(self, seconds: float) -> None:
        """Wait for a delay; a stop request or a person's resume ends it early."""
        deadline = time.monotonic() + seconds
        last_resume = last_change(self.attempt.run.resume_file)
        while time.monotonic() < deadline and not self.is_interrupted():
            if last_change(self.attempt.run.resume_file) != last_resume:
                log("resumed before the delay was over")
                return
            time.sleep(min(CHECK_SECONDS, POLL_SECONDS + seconds / 100))

    def _requeue(self) -> bool:
        client, job = self.allocation.client, self.allocation.job
        return client is not None and client.requeue(job.job_id)

    def _wait_for_requeue(self) -> None:
        """Wait for Slurm to end and requeue this job.

        Where it does not do so in time the caller submits another job; a later start of this one
        finds the newer submission and exits.
        """
        log("this job is requeued")
        time.sleep(self.requeue_seconds)
        log(f"Slurm has not requeued this job in {self.requeue_seconds:.0f} s")

    def wait_for_storage(self) -> bool:
        """Wait in the allocation until the run directory takes files; return whether it does."""
        root = self.attempt.run.root
        return wait_until_writable(root, self._storage_remaining(), self.is_interrupted)

    def _storage_remaining(self) -> float:
        return self._storage_deadline - time.monotonic()

    def _release_allocation(self) -> int:
        """Release the allocation without writing a file: requeue the job, which needs no disk, with
        the reason in its comment.

        After a stop request the job is not requeued; the recovery job decides. A run that was
        removed is not requeued either.
        """
        root = self.attempt.run.root
        if is_removed(root):
            log(f"failed: {root} was removed")
            return FAILED
        client, job = self.allocation.client, self.allocation.job
        if client and not self.is_interrupted():
            client.mark_storage(job.job_id, job.restarts)
            if self._requeue():
                self._wait_for_requeue()
                return SUCCESSOR
        log(f"the storage takes no files\nhint: `{self.attempt.run.command('resume')}`")
        return FAILED

    def _submit(self, decision: Decision) -> int:
        """Resubmit the task once the storage takes files; return the exit code: 75 when a job
        resumes the task, also one of another submission, and 130 after a person's stop request.
        """
        try:
            return retry_until_written(
                lambda: self._resubmit(decision),
                self.attempt.run.root,
                self._storage_remaining(),
                "no job was submitted",
                self.is_interrupted,
            )
        except OSError:
            return self._release_allocation()

    def _resubmit(self, decision: Decision) -> int:
        attempt = self.attempt
        try:
            ids = resubmission.resubmit(
                attempt.run,
                attempt.stage,
                attempt.index,
                replaces=(self.allocation.job.job_id,),
                by="supervisor",
                exclude=decision.exclude,
                delay=decision.delay,
                client=self.allocation.client,
                reader=self.reader,
            )
        except SubmitError as error:
            log(f"{error.message}\nhint: `{attempt.run.command('resume')}`")
            return FAILED
        if ids:
            log(f"job {ids[0]} resumes {attempt.stage} task {attempt.index}")
            return SUCCESSOR
        history = self.reader.current().task(attempt.stage, attempt.index)
        is_over = history.is_cancelled or history.is_stopped or attempt.run.is_stop_requested()
        return STOPPED if is_over else SUCCESSOR
