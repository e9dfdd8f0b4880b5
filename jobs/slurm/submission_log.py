"""Submissions to Slurm whose result is not recorded: their jobs in the queue, found by name and
comment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jobs.contract.attempt_history import RunHistory
from jobs.contract.errors import RESUME
from jobs.contract.events import IntentEvent, SubmitEvent, submit_event
from jobs.contract.rundir import RunDir
from jobs.runtime.log import log
from jobs.slurm import dependencies, sbatch, submission
from jobs.slurm.client import SILENCE, Client
from jobs.slurm.submission import Submission, SubmitError


def current_jobs(run: RunDir, submits: Sequence[SubmitEvent]) -> dict[str, str | None]:
    """Return for every job of a stage's submissions the job that works on its task now; None once
    that task is finished.
    """
    pairs = [pair for event in submits for pair in event.jobs()]
    last = dict(pairs)
    done = {index for index in last if run.done(submits[0].stage, index).exists()}
    return {job: None if index in done else last[index] for index, job in pairs}


@dataclass(frozen=True)
class SlurmQueue:
    """Slurm's queue (``jobs.slurm.transaction.JobQueue``)."""

    client: Client

    def adopt(self, run: RunDir, intent: IntentEvent, history: RunHistory) -> SubmitEvent | None:
        """Complete a submission that was killed, and return its result; None unless all of its jobs
        exist, each with its arguments: one whose sbatch call was killed, or timed out although
        Slurm had queued the job, has none and would fail.

        Raises:
            SubmitError: Slurm does not answer.
        """
        try:
            request = submission.read(run, intent.stage, intent.attempt)
        except SubmitError:  # killed before sbatch was called
            return None
        listed = self._find(run, intent)
        if listed is None:
            raise SubmitError(
                f"Slurm does not answer whether it has jobs of attempt {intent.attempt} of "
                f"{intent.stage}, whose submission was not confirmed",
                f"{RESUME} {sbatch.WHEN_SLURM_ANSWERS}",
            )
        jobs, recovery_jobs = listed
        ids = all_ids(request, sorted(jobs, key=int))
        folder = run.attempt(intent.stage, intent.attempt)
        if not all(sbatch.has_arguments(folder, job) for job in ids):
            return None
        ids = ids or started_ids(history, intent)
        if not ids:
            return None
        folder = submission.recovery_job_folder(run, request)
        usable = [job for job in recovery_jobs if sbatch.has_arguments(folder, job)]
        if len(usable) < len(recovery_jobs):
            self.client.cancel([job for job in recovery_jobs if job not in usable])
        return self.complete(run, request, submit_event(intent, ids, usable), history)

    def withdraw(self, run: RunDir, intent: IntentEvent, failure: str = "") -> None:
        """Cancel all jobs that a submission has queued, also those whose id sbatch did not return
        in time (measured).

        Raises:
            SubmitError: Slurm does not answer, or refuses; the message names what may be queued.
        """
        if failure and not self.client.has("sbatch"):
            return  # nothing can have been submitted here
        listed = self._find(run, intent)
        problem = SILENCE if listed is None else self.client.try_to_cancel([*listed[0], *listed[1]])
        if problem:
            submission_text = f"the submission of attempt {intent.attempt} of {intent.stage}"
            unconfirmed = f"{problem}, and {submission_text} is unconfirmed"
            raise SubmitError(
                f"{failure or unconfirmed}; jobs named {submission.job_name(run, intent.stage)} "
                "may be queued all the same",
                f"{RESUME} {sbatch.WHEN_SLURM_ANSWERS}",
            )

    def complete(
        self, run: RunDir, request: Submission, result: SubmitEvent, history: RunHistory
    ) -> SubmitEvent:
        """Make dependents of the replaced jobs wait for the new ones, ensure that a recovery job
        waits for them, and return the result with it.

        Args:
            result: of the submission, with its own recovery job if it has one already.
        """
        current = current_jobs(run, [*history.submits(result.stage), result])
        waiting = dependencies.retarget(self.client, current)
        if waiting is None:
            log(f"{result.stage}: Slurm does not list the dependents of the replaced jobs")
        recovery_jobs = sorted(history.recovery_jobs(result.stage) & set(waiting or ()))
        recovery_jobs = recovery_jobs or [*result.recovery_jobs]
        recovery_jobs = recovery_jobs or self._new_recovery_job(run, request, result)
        return replace(result, recovery_jobs=tuple(recovery_jobs))

    def _new_recovery_job(self, run: RunDir, request: Submission, result: SubmitEvent) -> list[str]:
        """Submit a recovery job for jobs that are queued; a refusal, or storage that takes no
        files, is logged, and they go without one.
        """
        try:
            return sbatch.submit_recovery_job(run, request, result.job_ids, self.client)
        except (SubmitError, OSError) as error:
            log(f"{result.stage} has no recovery job: {error}")
        return []

    def _find(self, run: RunDir, intent: IntentEvent) -> tuple[list[str], list[str]] | None:
        """Return the queued jobs and arrays of a submission and its recovery jobs; None without an
        answer.
        """
        comment = submission.job_comment(run, intent.attempt)
        jobs = self.client.find(submission.job_name(run, intent.stage), comment, run.code)
        name = submission.recovery_job_name(run, intent.stage)
        recovery_jobs = None if jobs is None else self.client.find(name, comment, run.code)
        return None if jobs is None or recovery_jobs is None else (jobs, recovery_jobs)


def all_ids(request: Submission, arrays: Sequence[str]) -> list[str]:
    """Return the job id of each task of a submission, from its jobs and arrays in the order of
    submission; nothing unless all of them are there.
    """
    parts = submission.chunks(request)
    if len(parts) != len(arrays):
        return []
    return [
        name
        for part, array in zip(parts, arrays, strict=True)
        for name in sbatch.element_ids(array, len(part.indices))
    ]


def started_ids(history: RunHistory, intent: IntentEvent) -> list[str]:
    """Return the ids of a submission that has left the queue, as its starts have recorded them."""
    tasks = history.tasks(intent.stage).values()
    starts = [task.started[intent.attempt] for task in tasks if intent.attempt in task.started]
    arrays = {start.job_id.split("_")[0] for start in starts}
    return sbatch.element_ids(arrays.pop(), len(intent.indices)) if len(arrays) == 1 else []
