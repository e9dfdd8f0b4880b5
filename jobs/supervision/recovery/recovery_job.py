"""Resubmit tasks whose supervisor died, was killed, or could not decide before Slurm had reported
the job's final state. Used by a small job behind each stage (``run_recovery``) and by ``meditron
recover`` on the login node. Standard library, and submitit inside the one function that submits.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.contract.attempt_history import RunHistory, TaskHistory
from jobs.contract.code_check import wrong_code
from jobs.contract.errors import CONFIGURATION
from jobs.contract.events import StartEvent, append_event
from jobs.contract.exit_record import ExitRecord
from jobs.contract.files import read_small
from jobs.contract.outcomes import CONTINUES, Decision, RetryAction
from jobs.contract.run_reader import RunReader
from jobs.contract.rundir import RunDir
from jobs.contract.specs import read_task
from jobs.notification.sender import Sender
from jobs.runtime.log import log
from jobs.runtime.storage import retry_until_written
from jobs.slurm import dependencies, queries, submission_log
from jobs.slurm.client import Client
from jobs.slurm.queries import AccountRow
from jobs.slurm.states import JobInfo, JobState, was_cancelled
from jobs.slurm.submission import SubmitError
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import RecoveryOptions
from jobs.supervision.recovery import resubmission
from jobs.supervision.recovery.closing import AttemptCloser

WAIT_SECONDS = 420.0
"""For Slurm to report how jobs ended; the recovery job lasts ten minutes."""
AGAIN_SECONDS = 20.0
NEW_JOB_SECONDS = 120.0
"""For the accounting to list a job after its submission."""


@dataclass(frozen=True)
class StageRecovery:
    """The result of one recovery pass over a stage."""

    messages: tuple[str, ...] = ()
    """Sentences for people: what was done, or why nothing was."""
    unclear: bool = False
    """Slurm does not report how a job ended, or refused a new one: try again later."""


@dataclass(frozen=True)
class UnfinishedTask:
    """An unfinished task of a stage and the job that it was last given to."""

    index: int
    history: TaskHistory
    job_id: str


def run_recovery(run_dir: str, stage: str, number: str) -> None:
    """Recover a stage until Slurm has reported how its jobs ended, and record what was done.

    Raises:
        SystemExit: this is not the run's own code.
    """
    run = RunDir(Path(run_dir))
    problem = wrong_code(run)
    client, sender = Client(os.environ), Sender(run)
    try:
        messages = [problem] if problem else recover_until_clear(run, stage, client, WAIT_SECONDS)
        if messages:
            append_event(run, "recovery_job", stage=stage, attempt=int(number), messages=messages)
    except OSError as error:  # the storage takes nothing: requeue this job, to try again later
        if not client.requeue(os.environ.get("SLURM_JOB_ID", "")):
            raise
        log(f"{stage}: {error}; this job is requeued")
    except Exception as error:  # a bug; the log of this job is /dev/null
        message = crash_message(run, stage, error)
        append_event(run, "recovery_job", stage=stage, attempt=int(number), messages=[message])
        raise
    finally:
        sender.send()
        sender.wait()
    if problem:
        raise SystemExit(CONFIGURATION)


def crash_message(run: RunDir, stage: str, error: Exception) -> str:
    """Return the last line of a traceback, with the location of its innermost frame."""
    (line,) = traceback.format_exception_only(type(error), error)[-1:]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    path = Path(frame.filename)
    root = run.code.resolve()
    name = path.relative_to(root) if path.is_relative_to(root) else path
    location = f"{name}:{frame.lineno} in {frame.name}"
    return f"{stage}: the recovery job failed with {line.strip()} ({location})"


def recover_until_clear(run: RunDir, stage: str, client: Client, seconds: float) -> list[str]:
    """Repeat the recovery pass while something is unclear or the storage takes nothing; return all
    sentences.

    Raises:
        OSError: the storage takes nothing.
    """
    deadline = time.monotonic() + seconds
    messages: dict[str, None] = {}
    reader = RunReader(run)
    pause = min(AGAIN_SECONDS, seconds / 10)  # each pass queries Slurm
    while True:
        result = retry_until_written(
            lambda: recover_stage(run, stage, client, "recovery_job", reader),
            run.root,
            deadline - time.monotonic(),
            stage,
            pause=pause,
        )
        for message in result.messages:
            if message not in messages:
                log(message)
        messages.update(dict.fromkeys(result.messages))
        if not result.unclear:
            return list(messages)
        if time.monotonic() > deadline:
            recover = run.command("recover")
            last = f"{stage}: Slurm does not report how its jobs ended; `{recover}` retries"
            log(last)
            return [*messages, last]
        time.sleep(pause)


def recover_stage(
    run: RunDir, stage: str, client: Client, by: str, reader: RunReader | None = None
) -> StageRecovery:
    """Close the open attempts of each unfinished task whose job is over, and resubmit the tasks
    that are to be retried.

    Without a response from Slurm nothing is done. Slurm is queried without the run's lock. Under
    the lock the new events are read, and a task that got another job meanwhile is skipped.

    Args:
        by: ``recovery_job`` or ``recover``.
    """
    reader = reader or RunReader(run)
    try:
        if reader.current().unanswered:
            with resubmission.waiting_lock(run):
                resubmission.resolve_unanswered(run, client, reader)
        tasks = unfinished(run, reader.current(), stage)
        over, unclear = ended_tasks(
            tasks, client.states({run.name: [task.job_id for task in tasks]})[run.name]
        )
        rows = client.accounting([task.job_id for task in over], run.name) if over else {}
        if rows is None and client.keeps_accounts():
            return StageRecovery(unclear=True)
        accounting = CachedAccounting(client.environ, rows or {})
        with resubmission.waiting_lock(run):
            jobs = {task.job_id for task in over}
            still_open = [t for t in unfinished(run, reader.current(), stage) if t.job_id in jobs]
            recoverer = Recoverer(run, stage, by, reader, accounting, accounting.rows)
            decisions = recoverer.decide_all(still_open)
        messages, refused = resubmit_tasks(run, stage, client, by, decisions, reader)
    except SubmitError as error:
        return StageRecovery((f"{stage}: {error.message}",), unclear=True)
    messages += retarget_dependents(run, reader.current(), stage, client)
    return StageRecovery(tuple(messages), unclear or refused)


def unfinished(run: RunDir, history: RunHistory, stage: str) -> list[UnfinishedTask]:
    """Return the tasks of a stage that a job has and no done marker; none once a person has
    cancelled or stopped the run.
    """
    return [
        UnfinishedTask(index, task, task.job.job_id)
        for index, task in history.tasks(stage).items()
        if task.job
        and not task.is_cancelled
        and not task.is_stopped
        and not run.done(stage, index).exists()
    ]


def ended_tasks(
    tasks: Iterable[UnfinishedTask], infos: Mapping[str, JobInfo]
) -> tuple[list[UnfinishedTask], bool]:
    """Return the tasks whose jobs have certainly ended, and whether any job is in doubt."""
    over, unclear, now = [], False, time.time()
    for task in tasks:
        info = infos[task.job_id]
        lagging = (
            info.state is JobState.MISSING
            and not info.reason
            and now - task.history.submissions[-1].time < NEW_JOB_SECONDS
        )
        if info.is_over and not lagging:
            over.append(task)
        unclear |= lagging or info.state is JobState.UNKNOWN
    return over, unclear


class CachedAccounting(Client):
    """A client of Slurm with the accounting rows of all jobs, queried at once."""

    def __init__(self, environ: Mapping[str, str], rows: dict[str, list[AccountRow]]) -> None:
        super().__init__(environ)
        self.rows = rows
        self._of_job: dict[str, dict[str, list[AccountRow]]] = {}
        for name, own in rows.items():
            self._of_job.setdefault(name.partition(".")[0], {})[name] = own

    def accounting(
        self, job_ids: Sequence[str], run: str = ""
    ) -> dict[str, list[AccountRow]] | None:
        rows_by_id = {
            name: rows for job in job_ids for name, rows in self._of_job.get(job, {}).items()
        }
        return rows_by_id or None


@dataclass(frozen=True)
class Recoverer:
    """Decides about the tasks of a stage whose jobs have ended."""

    run: RunDir
    stage: str
    by: str
    reader: RunReader
    """Of the run's metrics."""
    client: Client | None = None
    """None without Slurm."""
    rows: Mapping[str, list[AccountRow]] = field(default_factory=dict)
    """The accounting rows of their jobs; empty without accounting."""

    def decide_all(self, tasks: Iterable[UnfinishedTask]) -> dict[int, Decision]:
        """Close the tasks' open attempts and return the decisions, by index."""
        closer = AttemptCloser(self.run, self.by, self.client, self._options(), self.reader)
        decisions = {task.index: self._decide(closer, task) for task in tasks}
        closer.write()
        return {index: decision for index, decision in decisions.items() if decision is not None}

    def _options(self) -> RecoveryOptions:
        return RecoveryOptions(
            scheduler="slurm" if self.client else "local",
            in_allocation=False,
            can_requeue=False,
            can_submit=self.client is None or self.client.has("sbatch"),
        )

    def _decide(self, closer: AttemptCloser, task: UnfinishedTask) -> Decision | None:
        """Return the decision about a task; None where nothing is to do.

        The newest attempt decides: an open one that is closed now, or one that has an exit record.
        A job without either never started its task.
        """
        closed = {start.attempt: closer.close(start, task.history) for start in task.history.starts}
        last, newest = self._last_exit(task), max(closed, default=0)
        if newest > (last.attempt if last else 0):
            decision: Decision | None = closed[newest]
        elif last:
            decision = self._undone(task, last)
        else:
            decision = closer.close(self._never_started(task), task.history)
        return decision if decision and decision.action is not RetryAction.FINISH else None

    def _last_exit(self, task: UnfinishedTask) -> ExitRecord | None:
        """Return the last exit record of the task's present job."""
        first = task.history.submissions[-1].attempt
        records = [record for record in task.history.exits if record.attempt >= first]
        return records[-1] if records else None

    def _never_started(self, task: UnfinishedTask) -> StartEvent:
        """Return the start of a job that ended before its supervisor recorded one. Its supervisor
        may have observed that another job holds the task.
        """
        submitted = task.history.submissions[-1]
        observed = [number for number in task.history.observed if number >= submitted.attempt]
        rows = self.rows.get(task.job_id, [])
        began = (queries.seconds(rows[-1].start) if rows else None) or submitted.time
        spec = read_task(self.run, self.stage, task.index)
        metrics = self.reader.metrics(self.stage, task.index)
        return StartEvent(
            began,
            self.stage,
            task.index,
            max(observed, default=submitted.attempt),
            task.job_id,
            began,
            restarts=max(0, len(rows) - 1),
            step=evidence_collection.checkpoint_step(self.run, spec, task.history, metrics),
        )

    def _undone(self, task: UnfinishedTask, last: ExitRecord) -> Decision | None:
        """Return the decision of the last exit record that was not executed: sbatch had refused, or
        the supervisor was killed. None for a job that Slurm reports as cancelled.
        """
        rows = self.rows.get(task.job_id, [])
        if last.action not in CONTINUES or (rows and was_cancelled(rows[-1].state)):
            return None
        remaining = last.ended + last.delay - time.time()
        return Decision(
            RetryAction.SUBMIT, last.reason, delay=max(0.0, remaining), exclude=last.exclude
        )


def resubmit_tasks(
    run: RunDir,
    stage: str,
    client: Client,
    by: str,
    decisions: Mapping[int, Decision],
    reader: RunReader,
) -> tuple[list[str], bool]:
    """Resubmit the tasks that are to be retried, as one submission; return the sentences, and
    whether Slurm refused it.
    """
    messages = sentences(stage, decisions)
    retries = {index: item for index, item in decisions.items() if item.action in CONTINUES}
    if not retries:
        return messages, False
    exclude = dict.fromkeys(name for item in retries.values() for name in item.exclude)
    indices, history = list(retries), reader.current()
    replaces = [job.job_id for index in indices if (job := history.task(stage, index).job)]
    try:
        ids = resubmission.resubmit(
            run, stage, indices, replaces=replaces, by=by, exclude=tuple(exclude),
            delay=max(item.delay for item in retries.values()), client=client, reader=reader,
        )  # fmt: skip
    except SubmitError as error:
        return [*messages, f"{stage}: {error.message}"], True
    if not ids:
        why = resubmission.held_back(run, reader.current(), stage, indices, replaces)
        return [why], False
    return [*messages, f"{stage}: {resumption(ids)}"], False


def resumption(job_ids: Sequence[str]) -> str:
    """Return the sentence about the jobs that resume tasks."""
    noun, verb = ("job", "resumes") if len(job_ids) == 1 else ("jobs", "resume")
    return f"{noun} {', '.join(job_ids)} {verb} it"


def sentences(stage: str, decisions: Mapping[int, Decision]) -> list[str]:
    """Return the decisions about tasks and their reasons, for people."""
    return [f"{stage} task {index}: {item.reason}" for index, item in decisions.items()]


def retarget_dependents(run: RunDir, history: RunHistory, stage: str, client: Client) -> list[str]:
    """Re-point dependent jobs from replaced jobs to the current ones; return a sentence per later
    stage whose jobs Slurm has removed.
    """
    submits = history.submits(stage)
    indices = [index for event in submits for index in event.indices]
    if len(indices) == len(set(indices)):
        return []
    dependencies.retarget(client, submission_log.current_jobs(run, submits))
    return [
        f"{name}: its jobs have left the queue without a start; `{run.command('resume')}` submits "
        "them again"
        for name in vanished(run, history, stage, client)
    ]


def vanished(run: RunDir, history: RunHistory, stage: str, client: Client) -> Iterator[str]:
    """Yield the stages after this one whose waiting jobs Slurm has removed
    (``kill_invalid_depend``).
    """
    for name, summary in read_small(run.plan).get("stages", {}).items():
        open_tasks = unfinished(run, history, name)
        tasks = [task for task in open_tasks if not (task.history.started or task.history.ended)]
        if stage not in summary.get("after", ()) or not tasks:
            continue
        infos = client.states({run.name: [task.job_id for task in tasks]})[run.name]
        if all(info.is_over for info in infos.values()):
            yield name
