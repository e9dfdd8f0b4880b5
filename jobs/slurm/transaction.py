"""The transaction of one submission: an ``intent`` event, the jobs, and a result, which is a
``submit`` or a ``withdraw`` event.

The intent is appended first, so that a submission killed at any later point is on record.
The next submission for the run resolves the intents without a result: a submission whose jobs all
exist is adopted, any other is withdrawn. Callers hold the run's lock, so that no such intent is of
a submission in progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from jobs.contract import events
from jobs.contract.attempt_history import HistoryReader, RunHistory
from jobs.contract.events import IntentEvent, SubmitEvent, WithdrawEvent
from jobs.contract.rundir import RunDir


class JobQueue(Protocol):
    """A scheduler's queue, for submissions without a result. Both methods raise when
    the scheduler does not answer, and the intent stays without a result.
    """

    def adopt(self, run: RunDir, intent: IntentEvent, history: RunHistory) -> SubmitEvent | None:
        """Complete a submission that was killed, and return its result; None unless all of its jobs
        exist.
        """
        ...

    def withdraw(self, run: RunDir, intent: IntentEvent, failure: str = "") -> None:
        """Cancel all jobs that a submission has queued; none is not an error.

        Args:
            failure: why the submission failed; empty for one that was killed.
        """
        ...


def submit(
    run: RunDir,
    intent: IntentEvent,
    queue: JobQueue,
    make: Callable[[], SubmitEvent],
    complete: Callable[[SubmitEvent], SubmitEvent] = lambda result: result,
) -> SubmitEvent:
    """Make a submission, all of it or nothing, and return its result.

    Args:
        make: submits the jobs; where it fails, what it submitted is withdrawn.
        complete: makes other jobs depend on them. Where it fails, they are not withdrawn, since a
            dependent of a cancelled job never starts: the next submission adopts them.
    """
    events.append(run, intent)
    try:
        result = make()
    except BaseException as error:
        withdraw(run, intent, queue, getattr(error, "message", type(error).__name__))
        raise
    result = complete(result)
    events.append(run, result)
    return result


def withdraw(run: RunDir, intent: IntentEvent, queue: JobQueue, failure: str = "") -> None:
    """Cancel all jobs of a submission without a result, and record that it left none."""
    queue.withdraw(run, intent, failure)
    events.append(run, WithdrawEvent(time.time(), intent.stage, intent.attempt))


def resolve_unanswered(
    run: RunDir, reader: HistoryReader, queue_of: Callable[[str], JobQueue | None]
) -> None:
    """Adopt or withdraw each submission that was killed before its result was recorded.

    Args:
        queue_of: returns a scheduler by its name; None for one that this process cannot query.
    """
    for intent in reader.current().unanswered:
        queue = queue_of(intent.scheduler)
        if queue is None:
            continue
        result = queue.adopt(run, intent, reader.current())
        if result is None:
            withdraw(run, intent, queue)
        else:
            events.append(run, result)
