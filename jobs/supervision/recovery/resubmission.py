"""Resubmit tasks whose job is over, or is about to be.

The supervisor, the recovery job, ``meditron recover`` and a person may all want to resubmit the
same task. Whoever holds the run's lock reads the new events, and submits only if nobody else has.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from jobs.contract.attempt_history import RunHistory
from jobs.contract.events import IntentEvent, SubmitEvent, submit_event
from jobs.contract.files import read_small
from jobs.contract.locks import Locked, locked_within
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
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
    """Which tasks are to go on, how, and who wants it."""

    stage: str
    indices: tuple[int, ...]
    replaces: tuple[str, ...]
    """The jobs whose work goes on: those that the tasks were last given to."""
    by: str
    """``supervisor``, ``recovery_job`` or ``recover``."""
    exclude: tuple[str, ...] = ()
    delay: float = 0.0
    """Seconds from now to the earliest start."""


def resubmit(  # noqa: PLR0913 - one keyword a field of the wish
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
    """Submit new jobs for tasks, make everything that waits for the old jobs wait for the new ones,
    and return their ids.

    Nothing is submitted, and there are no ids, when the tasks have a newer job already or a person
    has asked for their end; ``held_back`` returns which.

    Raises:
        SubmitError: Slurm refused, or does not answer; nothing half-done is left.
        OSError: the run directory cannot be written.
    """
    tasks = (indices,) if isinstance(indices, int) else tuple(indices)
    wish = ResubmitRequest(stage, tasks, tuple(replaces), by, tuple(exclude), delay)
    client, reader = client or Client(os.environ), reader or RunReader(run)
    with waiting_lock(run):
        resolve_unanswered(run, client, reader)
        why = held_back(run, reader.current(), wish.stage, wish.indices, wish.replaces)
        if why:
            log(why)
            return []
        return go_on(run, wish, client, reader)


@contextmanager
def waiting_lock(run: RunDir, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the run's lock, once whoever submits at this moment has done so.

    Raises:
        SubmitError: somebody holds it longer than that.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked_within(run.lock, seconds))
        except Locked as error:
            raise SubmitError(
                f"another submission of run {run.name} has been at work for {seconds:.0f} s",
                f"`meditron resume {run.name}` when it is over",
            ) from error
        yield


def resolve_unanswered(run: RunDir, client: Client, reader: RunReader) -> None:
    """Adopt or withdraw each submission to Slurm that was killed before its result was recorded.
    The caller holds the run's lock.

    Raises:
        SubmitError: Slurm does not answer.
    """
    transaction.resolve_unanswered(run, reader, {"slurm": SlurmQueue(client)}.get)


def held_back(
    run: RunDir, history: RunHistory, stage: str, indices: Sequence[int], replaces: Sequence[str]
) -> str:
    """Return why these tasks must not be resubmitted now, in one sentence; empty when they may."""
    past, replaced = [history.task(stage, index) for index in indices], set(replaces)
    latest = [task.job.job_id for task in past if task.job]
    later = [job for job in latest if job not in replaced]
    if later:
        return f"{stage}: job {later[0]} resumes it already"
    if any(item.is_cancelled or item.is_stopped for item in past):
        return f"{stage}: a person has asked for the end of the run, so no job resumes it"
    if run.stop_file.exists():
        return f"{stage}: the file STOP asks for its end, so no job resumes it"
    return ""


def go_on(run: RunDir, wish: ResubmitRequest, client: Client, reader: RunReader) -> list[str]:
    """Append the intent, submit, make dependents wait for the new jobs, append the result."""
    history = reader.current()
    jobs = [history.task(wish.stage, index).job for index in wish.indices]
    newest = max((job.attempt for job in jobs if job), default=0)
    earlier = submission.read(run, wish.stage, newest)
    wish = replace(wish, exclude=usable(wish, earlier, client))
    after = awaited(run, history, wish.stage, client)
    asked = replace(following(run, earlier, wish, reader), after=after)
    intent, queue = intent_of(asked, wish), SlurmQueue(client)

    def make() -> SubmitEvent:
        ids = sbatch.submit(run, asked, client)
        return queue.complete(run, asked, submit_event(intent, ids, ()), history)

    return list(transaction.submit(run, intent, queue, make).job_ids)


def usable(wish: ResubmitRequest, earlier: Submission, client: Client) -> tuple[str, ...]:
    """The nodes to leave out, as far as the partition has them and can do without them."""
    if not wish.exclude:
        return ()
    known = client.partition_nodes(str(earlier.parameters.get("partition", "")))
    names, warning = node_ledger.left_out(
        wish.exclude, known, int(earlier.parameters.get("nodes", 1))
    )
    if warning:
        log(f"{wish.stage}: {warning}")
    return names


def awaited(run: RunDir, history: RunHistory, stage: str, client: Client) -> tuple[str, ...]:
    """Return the jobs that a stage has to wait for: those of the stages before it, if unfinished.

    Raises:
        SubmitError: such a job is not in the queue, so that nothing can wait for it.
    """
    before = read_small(run.plan).get("stages", {}).get(stage, {}).get("after", ())
    given = [submission_log.current_jobs(run, history.submits(name)) for name in before]
    jobs = list(dict.fromkeys(job for found in given for job in found.values() if job))
    if not jobs:
        return ()
    queue = client.queue()
    lost = [job for job in jobs if queue is not None and job not in queue]
    if queue is None or lost:
        why = f"job {lost[0]} is not in the queue" if lost else "squeue does not answer"
        raise SubmitError(
            f"{stage} waits for {' and '.join(before)}, and {why}",
            f"`meditron resume {run.name}`",
        )
    lengths = Counter(job.split("_")[0] for found in given for job in found)
    return tuple(submission.whole_arrays(jobs, lengths))


def following(
    run: RunDir, earlier: Submission, wish: ResubmitRequest, reader: RunReader
) -> Submission:
    """Return the submission that resumes tasks of an earlier one, as a new attempt."""
    return replace(
        earlier,
        indices=wish.indices,
        attempt=run.new_attempt(wish.stage),
        after=(),
        exclude=wish.exclude,
        delay_seconds=round(wish.delay),
        lead_seconds=next_lead(earlier, reader),
    )


def next_lead(earlier: Submission, reader: RunReader) -> int:
    """Seconds before its time limit at which the next job is asked to save: as the run's own saves
    want, but at most half of the job, or it would do nothing else.
    """
    metrics = reader.metrics(earlier.stage).current() if earlier.measures_lead else None
    if metrics is None or metrics.step_times is None:
        return earlier.lead_seconds
    return min(metrics.step_times.lead_seconds, int(earlier.parameters["time"]) * 60 // 2)


def intent_of(asked: Submission, wish: ResubmitRequest) -> IntentEvent:
    """Return the intent of a resubmission."""
    return IntentEvent(
        time.time(),
        asked.stage,
        asked.attempt,
        tuple(asked.indices),
        "slurm",
        wish.by,
        wish.replaces,
        asked.exclude,
    )
