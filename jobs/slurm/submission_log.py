"""Submissions to Slurm in a run's event log: adopted, withdrawn, completed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from jobs.contract import events
from jobs.contract.attempt_history import HistoryReader, RunHistory
from jobs.contract.events import IntentEvent, SubmitEvent, WithdrawEvent, submit_event
from jobs.contract.rundir import RunDir
from jobs.runtime.log import log
from jobs.slurm import dependencies, sbatch, submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission, SubmitError


def current_jobs(run: RunDir, submits: Sequence[SubmitEvent]) -> dict[str, str | None]:
    """Return for every job of a stage's submissions the job that works on its task now; None once
    that task is finished.
    """
    pairs = [pair for event in submits for pair in event.jobs()]
    last = dict(pairs)
    done = {index for index in last if run.done(submits[0].stage, index).exists()}
    return {job: None if index in done else last[index] for index, job in pairs}


def settle(run: RunDir, client: Client, reader: HistoryReader) -> None:
    """Record what became of submissions that were killed: adopt a complete one as it is, cancel
    what an incomplete one has queued. The caller holds the run's lock.

    Raises:
        SubmitError: Slurm does not answer.
    """
    for intent in reader.current().unanswered:
        if intent.scheduler == "slurm" and not adopt(run, intent, client, reader):
            withdraw(run, intent.stage, intent.attempt, client)


def withdraw(run: RunDir, stage: str, attempt: int, client: Client) -> None:
    """Cancel what is queued of a submission that was killed, and record that.

    Raises:
        SubmitError: Slurm does not answer.
    """
    if not client.cancel(left_behind(run, stage, attempt, client)):
        raise SubmitError(
            f"scancel did not end what attempt {attempt} of {stage} has left, whose submission was "
            "killed; it may be queued all the same",
            f"try again {sbatch.ANSWERS}",
        )
    events.append(run, WithdrawEvent(time.time(), stage, attempt))


def adopt(run: RunDir, intent: IntentEvent, client: Client, reader: HistoryReader) -> bool:
    """Adopt a submission that was killed before its ids were recorded; return whether all of its
    jobs exist.

    Raises:
        SubmitError: Slurm does not answer.
    """
    found = left_behind(run, intent.stage, intent.attempt, client)
    try:
        asked = submission.read(run, intent.stage, intent.attempt)
    except SubmitError:  # killed before anything was handed over
        return False
    ids = all_ids(asked, sorted(found, key=int)) or started(reader.current(), intent)
    if not ids:
        return False
    complete(run, asked, intent, ids, client, reader)
    return True


def left_behind(run: RunDir, stage: str, attempt: int, client: Client) -> list[str]:
    """Return the jobs and arrays of an attempt in the queue, by name and comment.

    Raises:
        SubmitError: Slurm does not answer.
    """
    name, comment = submission.job_name(run, stage), submission.job_comment(run, attempt)
    found = client.find(name, comment, run.code)
    if found is None:
        raise SubmitError(
            f"Slurm does not list the jobs of attempt {attempt} of {stage}, whose submission was "
            "killed",
            f"try again {sbatch.ANSWERS}",
        )
    return found


def all_ids(asked: Submission, arrays: Sequence[str]) -> list[str]:
    """Return the job id of each task of a submission, from its jobs and arrays in the order of
    submission; nothing unless all of them are there.
    """
    parts = submission.chunks(asked)
    if len(parts) != len(arrays):
        return []
    return [
        name
        for part, array in zip(parts, arrays, strict=True)
        for name in element_ids(array, len(part.indices))
    ]


def element_ids(array: str, count: int) -> list[str]:
    """Return the ids of an array's elements; a list of one is submitted as a plain job."""
    return [array] if count == 1 else [f"{array}_{element}" for element in range(count)]


def started(history: RunHistory, intent: IntentEvent) -> list[str]:
    """Return the ids of a submission that has left the queue, as its starts have recorded them."""
    tasks = history.tasks(intent.stage).values()
    starts = [task.started[intent.attempt] for task in tasks if intent.attempt in task.started]
    arrays = {start.job_id.split("_")[0] for start in starts}
    return element_ids(arrays.pop(), len(intent.indices)) if len(arrays) == 1 else []


def complete(
    run: RunDir,
    asked: Submission,
    intent: IntentEvent,
    ids: Sequence[str],
    client: Client,
    reader: HistoryReader,
) -> None:
    """Finish a submission: make dependents of the replaced jobs wait for the new ones, ensure that
    a recovery job waits for them, and append the ``submit`` event.
    """
    submit = submit_event(intent, ids, ())
    history = reader.current()
    current = current_jobs(run, [*history.submits(asked.stage), submit])
    waiting = dependencies.retarget(client, current)
    if waiting is None:
        log(f"{asked.stage}: Slurm does not list the dependents of the replaced jobs")
    guards = sorted(history.recovery_jobs(asked.stage) & set(waiting or ()))
    if not guards:
        guards = new_recovery_job(run, asked, ids, client)
    events.append(run, replace(submit, recovery_jobs=tuple(guards)))


def new_recovery_job(
    run: RunDir, asked: Submission, ids: Sequence[str], client: Client
) -> list[str]:
    """Submit a recovery job for replacement jobs; a refusal is logged, and they go without one."""
    try:
        return sbatch.submit_recovery_job(run, asked, ids, client)
    except SubmitError as error:
        log(f"{asked.stage} has no recovery job: {error.message}")
        return []
