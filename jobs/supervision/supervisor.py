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

from jobs.contract import rundir, specs
from jobs.contract.attempt_history import TaskHistory
from jobs.contract.errors import CONFIGURATION, FAILED, FINISHED, STOPPED, SUCCESSOR, TaskError
from jobs.contract.job import LOCAL_JOB
from jobs.contract.locks import Locked, locked_within
from jobs.contract.outcomes import CONTINUES, Decision, Diagnosis, NodeEntry, RetryAction, RootCause
from jobs.contract.run_reader import RunReader
from jobs.health import node_ledger
from jobs.runtime import secrets_file
from jobs.runtime.log import log
from jobs.supervision import attempt_records, cleanup
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
from jobs.supervision.recovery.actions import STORAGE_SECONDS, ActionRunner
from jobs.supervision.recovery.closing import AttemptCloser

CLAIM_SECONDS = 1.0
"""Between two tries to create the folder of an attempt."""


class HeldElsewhere(TaskError):
    """Another job still works on the task, so that nothing is to be decided here."""


class ClosedEarlier(Exception):
    """How an earlier start ended says that none may follow here."""

    def __init__(self, attempt: int, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.attempt = attempt
        self.decision = decision


def supervise(
    run: rundir.RunDir, stage: str, index: int, first: int, limits: Limits | None = None
) -> int:
    """Run one task until it is done or somebody else has to go on; answers the exit code.

    Args:
        first: the number of the first attempt, unless an earlier start of this task has it.
    """
    return Supervisor(run, stage, index, limits or Limits()).supervise(first)


def refuse(run: rundir.RunDir, stage: str, index: int, first: int, message: str) -> int:
    """Leave the record of a task that must not be started; answers the exit code."""
    return Supervisor(run, stage, index, Limits()).refuse(first, message)


def catch_signals() -> list[int]:
    """Replace submitit's handlers by one that only notes the signal."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    return received


class Supervisor:
    """All starts of one task in one job."""

    def __init__(self, run: rundir.RunDir, stage: str, index: int, limits: Limits) -> None:
        self.run = run
        self.stage = stage
        self.index = index
        self.limits = limits
        self.signals = catch_signals()
        self.surroundings = Allocation.here(os.environ)
        self.place = AttemptRef(run, stage, index, 0, time.time())
        self.history = RunReader(run)
        self.metrics = self.history.metrics(stage)
        self.task: specs.TaskSpec | None = None
        self.follows: int | None = None
        """The attempt whose end says that none may follow it here."""
        self._locked = False

    def supervise(self, first: int) -> int:
        """Start the ranks, again and again if that is decided; the exit code."""
        unwanted = self.unwanted()
        if unwanted is not None:
            return unwanted
        with ExitStack() as held:
            while True:
                code = self.start_once(first, lambda: self.attend(held))
                if code == FINISHED and self.task is not None:
                    cleanup.after_success(self.place, self.task)
                if code is not None:
                    return code

    def unwanted(self) -> int | None:
        """The exit code when nothing is to be started in this job, which Slurm has queued again
        although another one was given the task or the run was cancelled; else None.

        A job may start before its submission is on record: what stands there then is about others.
        """
        past = self.past()
        given = [item.job_id for item in past.submissions]
        if self.surroundings.job.job_id not in given:
            return None
        if past.is_cancelled:
            log(f"{self.stage} task {self.index} is not started: the run was cancelled")
            return STOPPED
        if given[-1] != self.surroundings.job.job_id:
            log(f"job {given[-1]} resumes {self.stage} task {self.index}")
            return SUCCESSOR
        return None

    def past(self) -> TaskHistory:
        """Return the history of the task up to now."""
        return self.history.current().task(self.stage, self.index)

    def refuse(self, first: int, message: str) -> int:
        """Leave the record of a task that must not be started; the exit code."""

        def never() -> Observed:
            raise TaskError(message)

        code = self.start_once(first, never)
        return CONFIGURATION if code is None else code

    def start_once(self, first: int, attend: Callable[[], Observed]) -> int | None:
        """One start: from its number to what is done at its end; None to start again."""
        number = self.claim(first)
        if number is None:
            return FAILED
        self.place = AttemptRef(self.run, self.stage, self.index, number, time.time())
        evidence, decision = self.judge(attend)
        record = attempt_records.exit_record(
            self.place, self.surroundings.job, evidence, decision, follows=self.follows
        )
        recorded = attempt_records.record_exit(self.run, record)
        runner = ActionRunner(self.place, self.surroundings, self.history, self.is_asked)
        if not recorded and decision.action in CONTINUES and runner.wait_for_storage():
            recorded = attempt_records.record_exit(self.run, record)
        self.remember(decision.suspects)
        code = runner.carry_out(decision)
        if code is None and not recorded and not attempt_records.record_exit(self.run, record):
            log(f"{self.stage} is not started again: nobody could count how often it was")
            return FAILED
        return code

    def claim(self, first: int) -> int | None:
        """Return the number of the next attempt, once the storage takes its folder; None when it
        does not, or a stop was requested.
        """
        deadline = time.monotonic() + STORAGE_SECONDS
        reason = ""
        while True:
            try:
                return attempt_records.claim(self.run, self.stage, self.index, first)
            except OSError as error:
                if reason != error.strerror:
                    reason = error.strerror or type(error).__name__
                    log(f"{self.run.stage(self.stage)} takes no attempt: {reason}; waiting")
            if self.is_asked() or time.monotonic() > deadline:
                log(f"failed: {self.run.stage(self.stage)} takes no attempt: {reason}")
                return None
            time.sleep(CLAIM_SECONDS)

    # ---- one start

    def attend(self, held: ExitStack) -> Observed:
        """Hold the task, look at its nodes, then start its ranks and wait for them.

        Raises:
            TaskError: the spec or the secrets cannot be used, or the task runs elsewhere.
            ClosedEarlier: after an earlier attempt none may be started here.
            OSError: a program that is needed is missing, or the disk takes nothing.
        """
        self.task = task = specs.load_task(self.run, self.stage, self.place.index)
        self.hold_task(held)
        step = evidence_collection.checkpoint_step(self.run, task, self.past(), self.metrics)
        self.place = replace(self.place, began=time.time(), step=step)
        attempt_records.record_start(self.place, self.surroundings.job)
        self.close_earlier(task)
        environ = {**os.environ, **secrets_file.read(task.secrets_file)}
        runner = AttemptRunner(
            self.place,
            task,
            self.surroundings,
            self.limits,
            self.signals,
            self.is_asked,
            self.metrics,
        )
        return runner.run(environ)

    def is_asked(self) -> bool:
        """Whether somebody wants the end: a signal, the file STOP, or the local scheduler's process
        that started this one is gone.
        """
        return bool(self.signals) or self.run.stop_file.exists() or is_abandoned(os.environ)

    # ---- before the ranks

    def hold_task(self, held: ExitStack) -> None:
        """Make sure that no other start of this task is at work; the lock dies with this process.

        Raises:
            HeldElsewhere: another one still is when the wait is over.
            TaskError: this one is to stop.
        """
        path = self.run.stage(self.stage) / "locks" / f"{self.index:05d}"
        if self._locked:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        seconds = self.limits.lock_seconds
        try:
            held.enter_context(locked_within(path, seconds, give_up=lambda: bool(self.signals)))
        except Locked as error:
            raise HeldElsewhere(
                f"{self.stage} task {self.index} of {self.run.name} is still running in another "
                "job",
                f"`meditron cancel {self.run.name}` ends it",
                FAILED,
            ) from error
        self._locked = True

    def close_earlier(self, task: specs.TaskSpec) -> None:
        """Close earlier attempts whose supervisors could not: they died, or Slurm had not reported
        yet why it ended their jobs.

        Raises:
            ClosedEarlier: after such an end none may be started here.
        """
        past, here = self.past(), self.surroundings
        earlier = [start for start in past.starts if start.attempt != self.place.attempt]
        if not earlier:
            return
        site = replace(here.said(task.site).site, in_allocation=False)
        closer = AttemptCloser(
            self.run, "supervisor", here.client, site, self.metrics, here.job.job_id
        )
        for start in earlier:
            decision = closer.close(start, past)
            self.write(closer)
            unwanted = set(decision.exclude) & set(here.job.nodes)
            stops = decision.action is RetryAction.STOP and not past.was_resumed_after(
                start.attempt
            )
            if stops or unwanted:
                raise ClosedEarlier(start.attempt, replace(decision, suspects=()))

    def write(self, closer: AttemptCloser) -> None:
        """Write what was decided about earlier attempts, if the disk takes it."""
        try:
            closer.write()
        except OSError as error:
            log(f"the end of an earlier attempt could not be written: {error.strerror}")

    # ---- at the end

    def judge(self, attend: Callable[[], Observed]) -> tuple[Evidence, Decision]:
        """Make a start, and decide what follows from how it ended.

        Whatever goes wrong in here, the start gets a decision, and so a record.
        """
        seen, decided = self.see(attend)
        seen = replace(seen, signals=(*self.heard(), *seen.signals))
        place, task = self.place, self.task
        site = task.site if task else specs.SiteSpec()
        if task is not None and is_finished(place, task, seen.code):
            said = SlurmReport(site=RecoveryOptions(nodes=self.surroundings.job.nodes))
        else:
            said = self.surroundings.said(site, seen.ranks_gone)
        said = replace(said, preempted=said.preempted or seen.preempted)
        try:
            evidence = evidence_collection.evidence(
                place, task, self.surroundings.job, seen, said, self.past(), self.metrics
            )
            return evidence, self.allowed(decided or self.decide(evidence))
        except Exception as error:  # a bug in judging must not leave a task without its record
            traceback.print_exc()
            now = time.time()
            job_id = self.surroundings.job.job_id
            evidence = Evidence(AttemptFacts(self.stage, place.attempt, job_id, place.began, now))
            return evidence, stop(f"the end of {self.stage} was not understood: {error}")

    def see(self, attend: Callable[[], Observed]) -> tuple[Observed, Decision | None]:
        """Make a start; what was seen of it, and a decision where none is to be asked for."""
        try:
            return attend(), None
        except HeldElsewhere as error:
            verdict = Diagnosis(RootCause.UNKNOWN, error.message, hint=error.hint)
            seen = Observed(message=error.message, hint=error.hint)
            code = STOPPED if self.signals else error.code
            return seen, Decision(RetryAction.WAIT, error.message, code=code, verdict=verdict)
        except ClosedEarlier as settled:
            self.follows = settled.attempt
            return Observed(message=settled.decision.reason), settled.decision
        except TaskError as error:
            is_ours = error.code == CONFIGURATION
            return Observed(message=error.message, hint=error.hint, configuration=is_ours), None
        except OSError as error:
            return Observed(message=f"{error.filename or self.stage}: {error.strerror}"), None
        except Exception as error:  # a task must not end without a record, whatever went wrong
            traceback.print_exc()
            message = f"the supervisor of {self.stage} met {type(error).__name__}: {error}"
            return Observed(message=message, hint="the job's log has the traceback"), None

    def heard(self) -> list[int]:
        """The signals received. A local scheduler's process that is gone counts as one."""
        gone = [int(signal.SIGTERM)] if is_abandoned(os.environ) else []
        return [*self.signals, *gone]

    def decide(self, evidence: Evidence) -> Decision:
        """What follows from the end of this start and of those before it."""
        limits = self.task.supervision if self.task else None
        return retry_policy.decide(self.past().exits, evidence, self.ledger(), time.time(), limits)

    def allowed(self, decision: Decision) -> Decision:
        """The decision, or the end where the ranks would start again in this very process although
        it was asked to stop.
        """
        if self.surroundings.client or decision.action not in CONTINUES:
            return decision
        if not self.is_asked():
            return decision
        sentence = decision.verdict.sentence if decision.verdict else decision.reason
        reason = (
            f"{sentence}, while it was asked to stop; `meditron resume {self.run.name}` goes on"
        )
        return replace(decision, action=RetryAction.STOP, reason=reason, code=FAILED)

    def ledger(self) -> tuple[NodeEntry, ...]:
        """What counts against nodes of this cluster now."""
        path = node_ledger.ledger_of(self.run, self.task)
        return node_ledger.active(node_ledger.read(path), time.time()) if path else ()

    def remember(self, suspects: Iterable[NodeEntry]) -> None:
        """Append to the cluster's node ledger."""
        path = node_ledger.ledger_of(self.run, self.task)
        if path is None:
            return
        try:
            node_ledger.append(path, suspects)
        except OSError as error:
            log(f"{path} could not be written: {error.strerror}")


def is_abandoned(environ: Mapping[str, str]) -> bool:
    """Whether the local scheduler's process that started this task is gone."""
    _, _, name = environ.get(LOCAL_JOB, "").partition(":")
    return bool(name) and not local_ranks.is_alive(name)


def stop(message: str) -> Decision:
    """The decision where none can be made."""
    verdict = Diagnosis(RootCause.UNKNOWN, message, hint="the job's log has the traceback")
    return Decision(RetryAction.STOP, message, code=FAILED, verdict=verdict)
