"""What a run's events say of its submissions to Slurm, and what is written there after each."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jobs.contract.events import append_event, read_events
from jobs.contract.rundir import RunDir
from jobs.slurm import dependencies, sbatch, submission
from jobs.slurm.client import Client
from jobs.slurm.submission import Submission, SubmitError


def unanswered(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Intents to submit of which no result is on record: the submission was killed."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        if event["event"] == "intent":
            found[event["stage"], event["attempt"]] = dict(event)
        elif event["event"] in ("submit", "withdraw"):
            found.pop((event["stage"], event["attempt"]), None)
    return list(found.values())


def submits(events: Sequence[Mapping[str, Any]], stage: str) -> list[Mapping[str, Any]]:
    """Submissions of a stage that were not taken back, oldest first."""
    gone = {job for event in events if event["event"] == "undo" for job in event["job_ids"]}
    return [
        event
        for event in events
        if event["event"] == "submit"
        and event["stage"] == stage
        and not gone.issuperset(event["job_ids"])
    ]


def given(event: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Tasks of a submission, each with its job; one id may stand for all of them."""
    ids = event["job_ids"]
    if len(ids) != len(event["indices"]):
        ids = ids[:1] * len(event["indices"])
    return zip(event["indices"], ids, strict=True)


def current_jobs(
    run: RunDir, events: Sequence[Mapping[str, Any]], stage: str
) -> dict[str, str | None]:
    """Of every job a stage was ever given to: which job works on its task now; None once that is
    finished.
    """
    pairs = [pair for event in submits(events, stage) for pair in given(event)]
    last = dict(pairs)
    done = {index for index in last if run.done(stage, index).exists()}
    return {job: None if index in done else last[index] for index, job in pairs}


def recovery_jobs(events: Sequence[Mapping[str, Any]], stage: str) -> set[str]:
    """Every recovery job that a stage ever had."""
    return {job for event in submits(events, stage) for job in event.get("recovery_jobs", ())}


def settle(run: RunDir, client: Client) -> None:
    """Find out what became of submissions that were killed, and put it on record: a whole one is
    taken over as it is, of any other what is left is cancelled. The caller holds the run's lock.

    Raises:
        SubmitError: Slurm does not answer.
    """
    for intent in unanswered(read_events(run)):
        if intent["scheduler"] == "slurm" and not adopt(run, intent, client):
            withdraw(run, intent["stage"], intent["attempt"], client)


def withdraw(run: RunDir, stage: str, attempt: int, client: Client) -> None:
    """End what is left of a submission that was killed, and put that on record.

    Raises:
        SubmitError: Slurm does not answer.
    """
    if not client.cancel(left_behind(run, stage, attempt, client)):
        raise SubmitError(
            f"scancel did not end what attempt {attempt} of {stage} has left, whose submission was "
            "killed; it may be queued all the same",
            f"try again {sbatch.ANSWERS}",
        )
    append_event(run, "withdraw", stage=stage, attempt=attempt)


def adopt(run: RunDir, intent: Mapping[str, Any], client: Client) -> bool:
    """Take over a submission that was killed before its ids were on record; whether all of its
    jobs were there.

    Raises:
        SubmitError: Slurm does not answer.
    """
    found = left_behind(run, intent["stage"], intent["attempt"], client)
    try:
        asked = submission.read(run, intent["stage"], intent["attempt"])
    except SubmitError:  # killed before anything was handed over
        return False
    ids = all_ids(asked, sorted(found, key=int)) or started(run, intent)
    if not ids:
        return False
    fields = {key: value for key, value in intent.items() if key not in ("event", "format", "time")}
    complete(run, asked, fields, ids, client)
    return True


def left_behind(run: RunDir, stage: str, attempt: int, client: Client) -> list[str]:
    """Jobs and arrays of an attempt that are in the queue, by what was written on them.

    Raises:
        SubmitError: Slurm does not answer.
    """
    name, comment = submission.job_name(run, stage), submission.job_comment(run, attempt)
    found = client.find(name, comment, run.code)
    if found is None:
        raise SubmitError(
            f"Slurm does not say what became of attempt {attempt} of {stage}, whose submission was "
            "killed",
            f"try again {sbatch.ANSWERS}",
        )
    return found


def all_ids(asked: Submission, arrays: Sequence[str]) -> list[str]:
    """An id a task of a submission, from those of its jobs and arrays in the order they were made;
    nothing unless all of them are there.
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
    """The ids of an array's elements; a list of one is submitted as a plain job."""
    return [array] if count == 1 else [f"{array}_{element}" for element in range(count)]


def started(run: RunDir, intent: Mapping[str, Any]) -> list[str]:
    """The ids of a submission that has left the queue, from what its starts have said."""
    starts = [
        event["job_id"]
        for event in read_events(run)
        if event["event"] == "start"
        and (event["stage"], event["attempt"]) == (intent["stage"], intent["attempt"])
    ]
    arrays = {job.split("_")[0] for job in starts}
    return element_ids(arrays.pop(), len(intent["indices"])) if len(arrays) == 1 else []


def complete(
    run: RunDir, asked: Submission, fields: Mapping[str, Any], ids: Sequence[str], client: Client
) -> None:
    """Have what waits for the replaced jobs wait for these, see that a recovery job waits for them,
    and put the submission on record.
    """
    event = {"event": "submit", **fields, "job_ids": list(ids)}
    events = [*read_events(run), event]
    waiting = dependencies.retarget(client, current_jobs(run, events, asked.stage))
    if waiting is None:
        note(f"{asked.stage}: Slurm does not say what waits for the replaced jobs")
    guards = sorted(recovery_jobs(events, asked.stage) & set(waiting or ()))
    if not guards:
        guards = new_recovery_job(run, asked, ids, client)
    append_event(run, "submit", **fields, job_ids=list(ids), recovery_jobs=guards)


def new_recovery_job(
    run: RunDir, asked: Submission, ids: Sequence[str], client: Client
) -> list[str]:
    """A recovery job for jobs that go on; they do without one where Slurm refuses it."""
    try:
        return sbatch.submit_recovery_job(run, asked, ids, client)
    except SubmitError as error:
        note(f"{asked.stage} has no recovery job: {error.message}")
        return []


def note(text: str) -> None:
    """Print into the job's log."""
    print(text, file=sys.stderr, flush=True)
