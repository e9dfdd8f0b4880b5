"""The batch step of a task: run its attempts, diagnose how each ended, and execute the decision.

No torch here: the supervisor survives a rank that dies, and a supervisor that is killed at any
moment leaves records from which the next start resumes. ``jobs.supervision.recovery.retry_policy``
decides; success is the done marker, never an exit code alone.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import FrameType

from jobs.contract import notification, rundir, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.errors import CONFIGURATION, FAILED, FINISHED, STOPPED, SUCCESSOR, TaskError
from jobs.contract.files import make_folder
from jobs.contract.job import LOCAL_JOB
from jobs.contract.locks import Locked, locked_within
from jobs.contract.outcomes import CONTINUES, Decision, Diagnosis, NodeEntry, RetryAction, RootCause
from jobs.contract.run_reader import RunReader
from jobs.health import node_ledger
from jobs.notification.sender import Sender
from jobs.runtime import secrets_file, storage
from jobs.runtime.log import log
from jobs.supervision import attempt_records, cleanup
from jobs.supervision.alarms import training_rules
from jobs.supervision.alarms.alarm_log import AlarmLog
from jobs.supervision.allocation import Allocation
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.attempt_runner import AttemptRunner, Limits, is_finished
from jobs.supervision.diagnosis import evidence_collection
from jobs.supervision.diagnosis.evidence import (
    AttemptFacts,
    Evidence,
    Observed,
    RecoveryOptions,
    SlurmReport,
)
from jobs.supervision.ranks import local_ranks
from jobs.supervision.recovery import retry_policy
from jobs.supervision.recovery.actions import ActionRunner
from jobs.supervision.recovery.closing import AttemptCloser


class HeldElsewhere(TaskError):
    """Another job still runs the task, so that nothing is decided here."""


class ClosedEarlier(Exception):
    """The decision about an earlier attempt, which forbids another one here."""

    def __init__(self, attempt: int, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.attempt = attempt
        self.decision = decision


def supervise(
    run: rundir.RunDir, stage: str, index: int, first: int, limits: Limits | None = None
) -> int:
    """Run one task until it is done or another job has to resume it; return the exit code.

    Args:
        first: the number of the first attempt, unless an earlier start of this task has it.
    """
    supervisor = Supervisor(run, stage, index, limits or Limits())
    try:
        return supervisor.supervise(first)
    finally:
        supervisor.sender.wait(supervisor.limits.notify_seconds)


def refuse(run: rundir.RunDir, stage: str, index: int, first: int, message: str) -> int:
    """Record the refusal of a task that must not be started; return the exit code."""
    supervisor = Supervisor(run, stage, index, Limits())
    code = supervisor.refuse(first, message)
    supervisor.sender.wait()
    return code


def catch_signals() -> list[int]:
    """Replace submitit's signal handlers; return the list that will hold the signals received."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return received


class Supervisor:
    """The supervisor of one task: all its attempts in one job."""

    def __init__(self, run: rundir.RunDir, stage: str, index: int, limits: Limits) -> None:
        self.run = run
        self.stage = stage
        self.index = index
        self.limits = limits
        self.signals = catch_signals()
        self.allocation = Allocation.current(os.environ)
        self.attempt = AttemptRef(run, stage, index, 0, time.time())
        self.reader = RunReader(run)
        self.metrics = self.reader.metrics(stage, index)
        self.sender = Sender(run)
        self.task: specs.TaskSpec | None = None
        self.follows: int | None = None
        """The earlier attempt whose end forbids another one here."""
        self._locked = False

    def supervise(self, first: int) -> int:
        """Run attempts until the decision is to end; return the exit code."""
        code = self.code_without_start()
        if code is not None:
            return code
        with ExitStack() as locks:
            while True:
                code = self.run_attempt(first, lambda: self.prepare_and_run(locks))
                if code == FINISHED and self.task is not None:
                    cleanup.after_success(self.attempt, self.task)
                if code is not None:
                    return code

    def code_without_start(self) -> int | None:
        """Return the exit code of a job that must not start its task: Slurm has requeued it
        although the run was cancelled or a newer job has the task; else None.

        A job may start before its submission is recorded; the records are then those of others.
        """
        history = self.task_history()
        job_ids = [item.job_id for item in history.submissions]
        if self.allocation.job.job_id not in job_ids:
            return None
        if history.is_cancelled:
            log(f"{self.stage} task {self.index} is not started: the run was cancelled")
            return STOPPED
        if job_ids[-1] != self.allocation.job.job_id:
            log(f"job {job_ids[-1]} resumes {self.stage} task {self.index}")
            return SUCCESSOR
        return None

    def task_history(self) -> TaskHistory:
        """Return the history of the task up to now."""
        return self.reader.current().task(self.stage, self.index)

    def refuse(self, first: int, message: str) -> int:
        """Record the refusal of a task that must not be started; return the exit code."""

        def raise_refusal() -> Observed:
            raise TaskError(message)

        code = self.run_attempt(first, raise_refusal)
        return CONFIGURATION if code is None else code

    def run_attempt(self, first: int, run: Callable[[], Observed]) -> int | None:
        """Run one attempt, from claiming its number to executing the decision; return the exit
        code, or None to start again.
        """
        number = self.claim(first)
        if number is None:
            return FAILED
        self.attempt = AttemptRef(self.run, self.stage, self.index, number, time.time())
        evidence, decision = self.run_and_decide(run)
        record = attempt_records.exit_record(
            self.attempt, self.allocation.job, evidence, decision, follows=self.follows
        )
        recorded = attempt_records.record_exit(self.run, record)
        runner = ActionRunner(self.attempt, self.allocation, self.reader, self.is_stop_requested)
        if not recorded and decision.action in CONTINUES and runner.wait_for_storage():
            recorded = attempt_records.record_exit(self.run, record)
        self.record_suspects(decision.suspects)
        self.raise_storm_alarm()
        self.sender.send()
        code = runner.execute(decision)
        if code is None and not recorded and not attempt_records.record_exit(self.run, record):
            log(f"{self.stage} is not started again: the attempt could not be recorded")
            return FAILED
        return code

    def raise_storm_alarm(self) -> None:
        """Raise an alarm where the task starts again and again, once per storm."""
        since = time.time() - training_rules.STORM_SECONDS
        alarm = training_rules.restart_storm(self.task_history().exits, time.time())
        raised = self.reader.current().alarms
        if alarm and not any(one.code == alarm.code and one.time >= since for one in raised):
            AlarmLog(self.attempt, self.sender).add(alarm)

    def claim(self, first: int) -> int | None:
        """Return the number of the next attempt, once the storage takes its folder; None when it
        does not, or a stop was requested.
        """
        folder = self.run.stage(self.stage)
        try:
            return storage.retry_until_written(
                lambda: attempt_records.claim(self.run, self.stage, self.index, first),
                self.run.root,
                storage.STORAGE_SECONDS,
                f"{folder} takes no attempt",
                self.is_stop_requested,
            )
        except OSError as error:
            log(f"failed: {folder} takes no attempt: {error.strerror or type(error).__name__}")
            return None

    # ---- one start

    def prepare_and_run(self, locks: ExitStack) -> Observed:
        """Lock the task, close its earlier attempts, and run its ranks.

        Raises:
            TaskError: the spec or the secrets cannot be used, or the task runs elsewhere.
            ClosedEarlier: the decision about an earlier attempt forbids another one here.
            OSError: a program that is needed is missing, or the disk takes nothing.
        """
        self.task = task = specs.load_task(self.run, self.stage, self.attempt.index)
        self.lock_task(locks)
        if evidence_collection.is_done(self.attempt, task):  # by the job that held the lock
            return Observed(FINISHED)
        step = evidence_collection.checkpoint_step(
            self.run, task, self.task_history(), self.metrics
        )
        self.attempt = replace(self.attempt, began=time.time(), step=step)
        eligible = self.allocation.eligible_time if task.training else None
        attempt_records.record_start(self.attempt, self.allocation.job, eligible)
        self.close_earlier(task)
        self.sender.send()
        secrets = secrets_file.read(task.secrets_file)
        try:
            secrets = notification.without_addresses(notification.read(self.run), secrets)
        except TaskError as error:
            log(f"the ranks get all lines of the secrets file: {error.message}")
        environ = {**os.environ, **secrets}
        runner = AttemptRunner(
            self.attempt,
            task,
            self.allocation,
            self.limits,
            self.signals,
            self.is_stop_requested,
            self.metrics,
            self.sender,
        )
        return runner.run(environ)

    def is_stop_requested(self) -> bool:
        """Return whether a stop is requested: by a signal, by the file STOP, or because the local
        scheduler's process that started this one is gone.
        """
        return bool(self.signals) or self.run.is_stop_requested() or is_abandoned(os.environ)

    # ---- before the ranks

    def lock_task(self, locks: ExitStack) -> None:
        """Lock the task against other starts; the kernel releases the lock with this process.

        Raises:
            HeldElsewhere: another start still holds the lock after ``lock_seconds``.
        """
        path = self.run.stage(self.stage) / "locks" / f"{self.index:05d}"
        if self._locked:
            return
        make_folder(path.parent)
        seconds = self.limits.lock_seconds
        try:
            locks.enter_context(locked_within(path, seconds, give_up=lambda: bool(self.signals)))
        except Locked as error:
            raise HeldElsewhere(
                f"{self.stage} task {self.index} of {self.run.name} is still running in another "
                "job",
                f"`{self.run.command('cancel')}` ends it",
                FAILED,
            ) from error
        self._locked = True

    def close_earlier(self, task: specs.TaskSpec) -> None:
        """Close earlier attempts whose supervisors could not: they died, or Slurm had not reported
        yet why it ended their jobs.

        Raises:
            ClosedEarlier: the decision about one forbids another attempt here.
        """
        history, allocation, job = self.task_history(), self.allocation, self.allocation.job
        earlier = [start for start in history.starts if start.attempt != self.attempt.number]
        if not earlier:
            return
        options = replace(allocation.slurm_report(task.site).options, in_allocation=False)
        closer = AttemptCloser(
            self.run, "supervisor", allocation.client, options, self.reader, job.job_id
        )
        for start in earlier:
            decision = closer.close(start, history)
            self.write(closer)
            excluded = set(decision.exclude) & set(job.nodes)
            resumed = history.was_resumed_after(start.attempt)
            stops = decision.action is RetryAction.STOP and not resumed
            if stops or excluded:
                raise ClosedEarlier(start.attempt, replace(decision, suspects=()))

    def write(self, closer: AttemptCloser) -> None:
        """Write the decisions about earlier attempts; log it where the disk takes nothing."""
        try:
            closer.write()
        except OSError as error:
            log(f"the end of an earlier attempt could not be written: {error.strerror}")

    # ---- at the end

    def run_and_decide(self, run: Callable[[], Observed]) -> tuple[Evidence, Decision]:
        """Run an attempt and decide what follows from its end.

        Any exception in here becomes a decision, so that each attempt is recorded.
        """
        observed, decision = self.observe(run)
        observed = replace(observed, signals=(*self.received_signals(), *observed.signals))
        attempt, task, job = self.attempt, self.task, self.allocation.job
        site = task.site if task else specs.SiteSpec()
        if task is not None and is_finished(attempt, task, observed.code):
            slurm = SlurmReport(options=RecoveryOptions(nodes=job.nodes))
        else:
            observed = replace(observed, storage_refuses=storage.refuses_files(attempt.folder))
            slurm = self.allocation.slurm_report(site, observed.ranks_gone)
        slurm = replace(slurm, preempted=slurm.preempted or observed.preempted)
        try:
            evidence = evidence_collection.evidence(
                attempt, task, job, observed, slurm, self.task_history(), self.metrics
            )
            return evidence, self.unless_stopped(decision or self.decide(evidence))
        except Exception as error:  # a bug in the diagnosis must not prevent the record
            traceback.print_exc()
            times = (attempt.began, time.time())
            evidence = Evidence(AttemptFacts(self.stage, attempt.number, job.job_id, *times))
            return evidence, undecided(f"the end of {self.stage} could not be diagnosed: {error}")

    def observe(self, run: Callable[[], Observed]) -> tuple[Observed, Decision | None]:
        """Run an attempt; return the observations, and the decision where it is made already."""
        try:
            return run(), None
        except HeldElsewhere as error:
            diagnosis = Diagnosis(RootCause.UNKNOWN, error.message, hint=error.hint)
            observed = Observed(message=error.message, hint=error.hint)
            code = STOPPED if self.signals else error.code
            return observed, Decision(
                RetryAction.WAIT, error.message, code=code, diagnosis=diagnosis
            )
        except ClosedEarlier as earlier:
            self.follows = earlier.attempt
            return Observed(message=earlier.decision.reason), earlier.decision
        except TaskError as error:
            is_configuration = error.code == CONFIGURATION
            hint = self.run.hint(error.hint)
            return Observed(
                message=error.message, hint=hint, is_configuration_error=is_configuration
            ), None
        except OSError as error:
            return Observed(message=f"{error.filename or self.stage}: {error.strerror}"), None
        except Exception as error:  # a bug must not prevent the record
            traceback.print_exc()
            message = f"the supervisor of {self.stage} failed with {type(error).__name__}: {error}"
            return Observed(message=message, hint="{meditron logs} shows the traceback"), None

    def received_signals(self) -> list[int]:
        """Return the signals received; the loss of the local scheduler's process counts as one."""
        gone = [int(signal.SIGTERM)] if is_abandoned(os.environ) else []
        return [*self.signals, *gone]

    def decide(self, evidence: Evidence) -> Decision:
        """Return what follows from the end of this attempt and of those before it."""
        limits = self.task.supervision if self.task else None
        exits = self.task_history().exits
        return retry_policy.decide(exits, evidence, self.ledger(), time.time(), limits)

    def unless_stopped(self, decision: Decision) -> Decision:
        """Return the decision, or STOP where the ranks would start again in this very process
        although a stop is requested.
        """
        if self.allocation.client or decision.action not in CONTINUES:
            return decision
        if not self.is_stop_requested():
            return decision
        sentence = decision.diagnosis.sentence if decision.diagnosis else decision.reason
        resume = self.run.command("resume")
        reason = f"{sentence}, after a stop request; `{resume}` resumes it"
        return replace(decision, action=RetryAction.STOP, reason=reason, code=FAILED)

    def ledger(self) -> tuple[NodeEntry, ...]:
        """Return the active entries of this cluster's node ledger."""
        path = node_ledger.ledger_of(self.run, self.task)
        return node_ledger.active(node_ledger.read(path), time.time()) if path else ()

    def record_suspects(self, suspects: Iterable[NodeEntry]) -> None:
        """Append suspect nodes to the cluster's node ledger."""
        path = node_ledger.ledger_of(self.run, self.task)
        if path is None:
            return
        try:
            node_ledger.append(path, suspects)
        except OSError as error:
            log(f"{path} could not be written: {error.strerror}")


def is_abandoned(environ: Mapping[str, str]) -> bool:
    """Return whether the local scheduler's process that started this task is gone."""
    _, _, name = environ.get(LOCAL_JOB, "").partition(":")
    return bool(name) and not local_ranks.is_alive(name)


def undecided(message: str) -> Decision:
    """Return the decision where none can be made."""
    diagnosis = Diagnosis(RootCause.UNKNOWN, message, hint="{meditron logs} shows the traceback")
    return Decision(RetryAction.STOP, message, code=FAILED, diagnosis=diagnosis)
