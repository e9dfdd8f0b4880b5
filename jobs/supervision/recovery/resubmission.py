"""Resubmit tasks whose job has ended or is about to.

The supervisor, the recovery job, ``meditron recover`` and a person may resubmit the same task at
once. The holder of the run's lock reads the new events, and submits only where no other has.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from jobs.contract import specs
from jobs.contract.attempt_history import RunHistory
from jobs.contract.errors import RESUME
from jobs.contract.events import IntentEvent, SubmitEvent, submit_event
from jobs.contract.files import FormatError, read_json
from jobs.contract.locks import Locked, locked_within
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import READING_STAGES
from jobs.health import node_ledger
from jobs.runtime.log import log
from jobs.slurm import sbatch, submission, submission_log, transaction
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission, SubmitError
from jobs.slurm.submission_log import SlurmQueue

LOCK_SECONDS = 60.0
"""For another submission of the run to be made."""


@dataclass(frozen=True)
class ResubmitRequest:
    """The tasks to resubmit, the jobs they replace, and the requesting process."""

    stage: str
    indices: tuple[int, ...]
    replaces: tuple[str, ...]
    """The jobs that the tasks were last submitted as."""
    by: str
    """``supervisor``, ``recovery_job`` or ``recover``."""
    exclude: tuple[str, ...] = ()
    delay: float = 0.0
    """Seconds from now to the earliest start."""


def resubmit(  # noqa: PLR0913 - one keyword per field of the request
    run: RunDir,
    stage: str,
    indices: int | Sequence[int],
    *,
    replaces: Sequence[str],
    by: str,
    exclude: Sequence[str] = (),
    delay: float = 0.0,
    client: Client | None = None,
    reader: RunReader | None = None,
) -> list[str]:
    """Submit new jobs for tasks, re-point the dependents of the old jobs to them, and return their
    ids.

    Nothing is submitted, and the result is empty, where the tasks have a newer job already or a
    person has cancelled or stopped the run; ``held_back`` returns which.

    Raises:
        SubmitError: Slurm refused, or does not respond; the submission is withdrawn.
        OSError: the run directory cannot be written.
    """
    numbers = (indices,) if isinstance(indices, int) else tuple(indices)
    request = ResubmitRequest(stage, numbers, tuple(replaces), by, tuple(exclude), delay)
    client, reader = client or Client(os.environ), reader or RunReader(run)
    with waiting_lock(run):
        resolve_unanswered(run, client, reader)
        why = held_back(run, reader.current(), request.stage, request.indices, request.replaces)
        if why:
            log(why)
            return []
        return submit(run, request, client, reader)


@contextmanager
def waiting_lock(run: RunDir, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the run's lock, after another submission has released it.

    Raises:
        SubmitError: another process holds it for longer than ``seconds``.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked_within(run.lock, seconds))
        except Locked as error:
            raise SubmitError(
                f"another submission of run {run.name} has been at work for {seconds:.0f} s",
                f"{RESUME} when it is over",
            ) from error
        yield


def resolve_unanswered(run: RunDir, client: Client, reader: RunReader) -> None:
    """Adopt or withdraw each submission to Slurm that was killed before its result was recorded.
    The caller holds the run's lock.

    Raises:
        SubmitError: Slurm does not respond.
    """
    transaction.resolve_unanswered(run, reader, {"slurm": SlurmQueue(client)}.get)


def held_back(
    run: RunDir, history: RunHistory, stage: str, indices: Sequence[int], replaces: Sequence[str]
) -> str:
    """Return why these tasks must not be resubmitted now, in one sentence; empty when they may."""
    histories, replaced = [history.task(stage, index) for index in indices], set(replaces)
    latest = [task.job.job_id for task in histories if task.job]
    later = [job for job in latest if job not in replaced]
    if later:
        return f"{stage}: job {later[0]} resumes it already"
    if any(item.is_cancelled or item.is_stopped for item in histories):
        return f"{stage}: a person has cancelled or stopped the run, so no job resumes it"
    if run.is_stop_requested():
        return f"{stage}: the file STOP exists, so no job resumes it"
    return ""


def submit(run: RunDir, request: ResubmitRequest, client: Client, reader: RunReader) -> list[str]:
    """Append the intent, submit, make dependents wait for the new jobs, append the result."""
    history = reader.current()
    jobs = [history.task(request.stage, index).job for index in request.indices]
    newest = max((job.attempt for job in jobs if job), default=0)
    earlier = submission.read(run, request.stage, newest)
    request = replace(request, exclude=usable(request, earlier, client))
    tasks = [history.task(request.stage, index) for index in request.indices]
    # A task that has begun had its checkpoint, whatever training does since.
    has_input = request.stage in READING_STAGES and all(task.started for task in tasks)
    after = () if has_input else awaited(run, history, request.stage, client)
    next_submission = replace(following(run, earlier, request, reader), after=after)
    intent, queue = intent_of(run, next_submission, request), SlurmQueue(client)

    def make() -> SubmitEvent:
        return submit_event(intent, sbatch.submit(run, next_submission, client), ())

    def complete(result: SubmitEvent) -> SubmitEvent:
        return queue.complete(run, next_submission, result, history)

    return list(transaction.submit(run, intent, queue, make, complete).job_ids)


def usable(request: ResubmitRequest, earlier: Submission, client: Client) -> tuple[str, ...]:
    """Return the nodes to exclude that the partition has and that leave enough others."""
    if not request.exclude:
        return ()
    known = client.partition_nodes(str(earlier.parameters.get("partition", "")))
    names, warning = node_ledger.exclusions(
        request.exclude, known, int(earlier.parameters.get("nodes", 1))
    )
    if warning:
        log(f"{request.stage}: {warning}")
    return names


def awaited(run: RunDir, history: RunHistory, stage: str, client: Client) -> tuple[str, ...]:
    """Return the jobs that a stage has to wait for: those of the stages before it, if unfinished.

    Raises:
        SubmitError: such a job is not in the queue, so that nothing can wait for it, or the plan is
            damaged.
        OSError: the plan cannot be read.
    """
    try:
        before = read_json(run.plan).get("stages", {}).get(stage, {}).get("after", ())
    except FileNotFoundError:
        return ()
    except FormatError as error:
        raise SubmitError(f"{error}; {stage} may have to wait for other stages") from error
    submitted = [submission_log.current_jobs(run, history.submits(name)) for name in before]
    jobs = list(dict.fromkeys(job for current in submitted for job in current.values() if job))
    if not jobs:
        return ()
    queue = client.queue()
    lost = [job for job in jobs if queue is not None and job not in queue]
    if queue is None or lost:
        why = f"job {lost[0]} is not in the queue" if lost else "squeue does not respond"
        raise SubmitError(
            f"{stage} waits for {' and '.join(before)}, and {why}",
            f"`{run.command('resume')}`",
        )
    lengths = Counter(job.split("_")[0] for current in submitted for job in current)
    return tuple(submission.whole_arrays(jobs, lengths))


def following(
    run: RunDir, earlier: Submission, request: ResubmitRequest, reader: RunReader
) -> Submission:
    """Return the submission that resumes tasks of an earlier one, as a new attempt."""
    resumed = replace(
        earlier,
        indices=request.indices,
        attempt=run.new_attempt(request.stage),
        after=(),
        exclude=request.exclude,
        delay_seconds=round(request.delay),
    )
    return replace(resumed, lead_seconds=next_lead(run, resumed, reader))


def next_lead(run: RunDir, resumed: Submission, reader: RunReader) -> int:
    """Return the signal lead time of a job in seconds, by the saves and the longest steps of the
    trainings that it resumes, but at most half of the job's time.
    """
    if not resumed.measures_lead:
        return resumed.lead_seconds
    leads = []
    for index in resumed.indices:
        task = specs.read_task(run, resumed.stage, index)
        metrics = reader.metrics(resumed.stage, index).current()
        if times := metrics.step_times(task.training if task else None):
            leads.append(times.lead_seconds)
    if not leads:
        return resumed.lead_seconds
    return min(max(leads), int(resumed.parameters["time"]) * 60 // 2)


def intent_of(run: RunDir, next_submission: Submission, request: ResubmitRequest) -> IntentEvent:
    """Return the intent of a resubmission."""
    return IntentEvent(
        time.time(),
        next_submission.stage,
        next_submission.attempt,
        tuple(next_submission.indices),
        "slurm",
        request.by,
        request.replaces,
        next_submission.exclude,
        str(run.root),
    )
