"""Retry policy: one row per root cause (``jobs.supervision.recovery.retry_table``), and ordered
rules for all.

Pure: the same history, evidence, ledger and time give the same decision. Attempts without progress
are limited whatever ends them; preemptions and time limits cost no retry budget while there is
progress. Numbers without a source are guesses.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace

from jobs.contract.errors import FAILED, FINISHED, RESUME, STOPPED, SUCCESSOR
from jobs.contract.exit_record import ExitRecord
from jobs.contract.outcomes import (
    Decision,
    Diagnosis,
    NodeEntry,
    RetryAction,
    RootCause,
)
from jobs.contract.specs import SupervisionSpec
from jobs.contract.stage_specs import TRAINING_STAGES
from jobs.health import node_ledger
from jobs.supervision.diagnosis import diagnosis_text, failure_causes, root_cause
from jobs.supervision.diagnosis.evidence import Evidence
from jobs.supervision.recovery.retry_state import RetryCase
from jobs.supervision.recovery.retry_table import Backoff

STALLED_STARTS = 10
"""Starts in a row without a newer checkpoint, preempted ones included. A guess: at Slurm's two
minutes until a requeued job may start, and one to start the ranks, that is half an hour without
progress; a run preempted ten times before its first save does not fit its partition.
"""

SAME_STEP = 3
"""Times that a failure may occur at one step; then the data, the model or the program is at fault.
"""

RETRY_CAP_SECONDS = 900.0
STORAGE_CAP_SECONDS = 3600.0
SPREAD = 0.1
"""Share by which delays differ between runs, so that not all start at one moment."""

BEGINNING = "from the beginning"

RESTART_SECONDS = 120.0
"""Time that must be left of an allocation for another start in it; a guess."""


def decide(
    history: Sequence[ExitRecord],
    evidence: Evidence,
    ledger: Sequence[NodeEntry],
    now: float,
    limits: SupervisionSpec | None = None,
) -> Decision:
    """Return the decision after an attempt, with its reason in one sentence.

    Args:
        history: exit records of this task's attempts, oldest first; one of this attempt itself
            does not count.
        evidence: of the attempt that has just ended.
        ledger: entries of the cluster's node ledger.
        now: seconds since 1970.
        limits: timeouts and the retry budget; the defaults when None.
    """
    earlier = tuple(ending for ending in history if ending.attempt != evidence.attempt.number)
    diagnosis = root_cause.classify(evidence)
    active = node_ledger.active(ledger, now)
    case = RetryCase(evidence, diagnosis, earlier, active, now, limits or SupervisionSpec())
    for rule in RULES:
        decision = rule(case)
        if decision is not None:
            break
    else:
        decision = retry_decision(case)
    return replace(
        decision,
        reason=diagnosis_text.one_line(decision.reason),
        suspects=suspects(case),
        diagnosis=decision.diagnosis or diagnosis,
    )


# Rules that stop a task or leave the decision to another process, in order -----------------------

Rule = Callable[[RetryCase], Decision | None]


def target_reached(case: RetryCase) -> Decision | None:
    if case.diagnosis.cause is not RootCause.COMPLETED:
        return None
    return Decision(RetryAction.FINISH, case.diagnosis.sentence, code=FINISHED)


def not_retryable(case: RetryCase) -> Decision | None:
    """Stop on request, or after a failure that a retry cannot avoid."""
    if not case.row.ends:
        return None
    if case.row.code == STOPPED:
        reason = f"{case.diagnosis.sentence}; {RESUME} resumes it"
        return Decision(RetryAction.STOP, reason, code=STOPPED)
    return stop_decision(case, case.row.advice)


def no_usable_checkpoint(case: RetryCase) -> Decision | None:
    """Stop where no checkpoint of a training is usable any more; after a storage failure they may
    become readable again.
    """
    step = case.evidence.progress.step_after
    if (
        case.evidence.attempt.stage not in TRAINING_STAGES
        or step
        or (step == 0 and not case.newest)
    ):
        return None
    if case.diagnosis.cause is RootCause.CHECKPOINT:
        return stop_decision(case, case.row.advice)
    if not case.newest or case.diagnosis.cause is RootCause.STORAGE:
        return None
    sentence = (
        f"{case.diagnosis.sentence}, and no checkpoint can be used although there was one of step "
        f"{case.newest:,}; training does not restart from step 0"
    )
    diagnosis = Diagnosis(RootCause.CHECKPOINT, sentence, case.diagnosis.node)
    return Decision(RetryAction.STOP, sentence, code=FAILED, diagnosis=diagnosis)


def job_is_ending(case: RetryCase) -> Decision | None:
    """Wait where Slurm, or a person through it, is ending the job: its final state decides."""
    if not (case.live and case.on_slurm) or case.diagnosis.cause is RootCause.PREEMPTED:
        return None
    signals = case.evidence.observed.signals
    is_ended = any(number in signals for number in (signal.SIGTERM, signal.SIGINT))
    is_saving = signal.SIGUSR2 in signals
    if case.diagnosis.cause is not RootCause.NODE_FAIL and (not is_ended or is_saving):
        return None
    reason = f"{case.diagnosis.sentence}; waiting for Slurm to report the final state of the job"
    return Decision(RetryAction.WAIT, reason, code=STOPPED)


def repeated_at_one_step(case: RetryCase) -> Decision | None:
    """Stop after the same failure at the same step, whatever checkpoint the attempt resumed from.

    A full disk fails at the same save each time, but not because of the step.
    """
    fingerprint, step = case.diagnosis.fingerprint, case.evidence.progress.last_step
    if not fingerprint or step is None or case.diagnosis.cause is RootCause.STORAGE:
        return None
    times = sum((e.fingerprint, e.last_step) == (fingerprint, step) for e in case.counted)
    if times < SAME_STEP:
        return None
    return stop_decision(
        case, f"the same failure ({fingerprint}) occurred {times} times at step {step:,}"
    )


def failed_on_two_nodes(case: RetryCase) -> Decision | None:
    """Stop after the same failure of the program on two nodes: the program is at fault."""
    nodes = sorted({ending.node for ending in case.same if ending.node})
    if not case.row.program_at_fault or not case.diagnosis.fingerprint or len(nodes) < 2:
        return None
    listed = " and on ".join(nodes[-2:])
    failure = f"the same failure ({case.diagnosis.fingerprint})"
    return stop_decision(case, f"{failure} occurred on {listed}: the program is at fault")


def repeats_exceeded(case: RetryCase) -> Decision | None:
    """Stop after the same failure at the same checkpoint more often than its cause allows."""
    allowed, times = case.repeats_allowed, len(case.same)
    if allowed is None or times <= allowed:
        return None
    repetition = f"it occurred {times} times without a newer checkpoint" if times > 1 else ""
    decision = stop_decision(case, repetition, case.row.advice)
    if case.row.repeated is None:
        return decision
    sentence = diagnosis_text.one_line(decision.reason)
    return replace(decision, diagnosis=Diagnosis(case.row.repeated, sentence))


def budget_exhausted(case: RetryCase) -> Decision | None:
    """Stop after so many attempts in a row without a newer checkpoint, whatever ended them."""
    most = case.limits.attempts_without_progress
    starts, tries = len(case.stalled), 0
    if case.row.counts:
        tries = case.spent
    elif most == 1 and case.diagnosis.cause is not RootCause.PREEMPTED:
        tries = case.failures  # a budget of one attempt excludes a retry on a full disk too
    if tries >= most:
        return stop_decision(
            case, f"attempt {tries} in a row without a newer checkpoint", case.row.advice
        )
    if starts >= max(STALLED_STARTS, most):
        return stop_decision(
            case, f"start {starts} in a row without a newer checkpoint", case.row.advice
        )
    return None


RULES: tuple[Rule, ...] = (
    target_reached,
    not_retryable,
    no_usable_checkpoint,
    job_is_ending,
    failed_on_two_nodes,
    repeated_at_one_step,
    repeats_exceeded,
    budget_exhausted,
)


def stop_decision(case: RetryCase, *why: str) -> Decision:
    """Return the decision to stop, with the reasons."""
    reason = f"{case.diagnosis.sentence}; not retried: {', '.join(filter(None, why))}"
    return Decision(RetryAction.STOP, reason, code=case.row.code)


# Retries ------------------------------------------------------------------------------------------


def retry_decision(case: RetryCase) -> Decision:
    """Return the cheapest retry that the recovery options allow."""
    options = case.evidence.options
    if options.started_again and not set(case.blamed) & set(options.nodes):
        reason = f"{case.diagnosis.sentence}; the requeued job {resumes(case)}"
        return Decision(RetryAction.REQUEUE, reason, code=SUCCESSOR)
    delay = delay_before(case)
    preempted = case.diagnosis.cause is RootCause.PREEMPTED
    if preempted and case.live and options.can_requeue and options.requeues_left != 0:
        reason = f"{case.diagnosis.sentence}; Slurm requeues the job, which {resumes(case)}"
        return Decision(RetryAction.REQUEUE, reason, code=SUCCESSOR)
    if may_restart(case, delay):
        return restart_decision(case, delay)
    if options.can_submit or not case.on_slurm:
        return submit_decision(case, delay)
    reason = (
        f"{case.diagnosis.sentence}; no job may be submitted from this node: "
        f"{{meditron recover}} or {RESUME} on the login node submits one"
    )
    return Decision(RetryAction.WAIT, reason, code=STOPPED)


def may_restart(case: RetryCase, delay: float) -> bool:
    """Return whether the ranks may be started once more in this allocation."""
    options = case.evidence.options
    fatal = {entry.node for entry in case.ledger if entry.verdict == "FATAL"}
    return (
        case.live
        and options.usable
        and not case.evidence.observed.signals  # the allocation ends, or a stop is requested
        and case.row.in_place
        and not case.blamed
        and not fatal & set(options.nodes)
        and restarts(case) < case.limits.restarts_in_allocation
        and (options.seconds_left is None or options.seconds_left >= delay + RESTART_SECONDS)
    )


def restarts(case: RetryCase) -> int:
    """Return the number of restarts in this allocation; a requeued job has a new one."""
    number = 0
    for ending in reversed(case.history):
        if (
            ending.job_id != case.evidence.attempt.job_id
            or ending.action is not RetryAction.RESTART
        ):
            break
        number += 1
    return number


def restart_decision(case: RetryCase, delay: float) -> Decision:
    """Return the decision to restart the ranks in this allocation."""
    number, most = restarts(case) + 1, case.limits.restarts_in_allocation
    reason = (
        f"{case.diagnosis.sentence}; restarting {origin(case)} on the same nodes"
        f"{when(delay)} (restart {number} of {most})"
    )
    return Decision(RetryAction.RESTART, reason, delay, code=SUCCESSOR)


def submit_decision(case: RetryCase, delay: float) -> Decision:
    """Return the decision to submit a new job, without blamed nodes and those of the ledger."""
    listed = node_ledger.worst_first(case.ledger) if case.on_slurm else []
    exclude = tuple(dict.fromkeys((*case.blamed, *listed)))
    without = f" without {', '.join(exclude)}" if exclude else ""
    subject = "a new job" if case.on_slurm else "the task"
    reason = f"{case.diagnosis.sentence}; {subject} {resumes(case)}{without}{when(delay)}"
    return Decision(RetryAction.SUBMIT, reason, delay, exclude, code=SUCCESSOR)


def resumes(case: RetryCase) -> str:
    verb = "starts" if origin(case) == BEGINNING else "resumes"
    return f"{verb} {origin(case)}"


def origin(case: RetryCase) -> str:
    step = case.evidence.progress.step_after
    if step is not None:
        return f"from step {step:,}"
    return BEGINNING if case.newest is None else "from the newest checkpoint"


def when(delay: float) -> str:
    if delay < 1:
        return ""
    return f" in {delay:.0f} s" if delay < 120 else f" in {delay / 60:.0f} min"


def delay_before(case: RetryCase) -> float:
    """Return the backoff in seconds: doubled with each failure in a row, up to a cap."""
    base, cap = {
        Backoff.AT_ONCE: (0.0, 0.0),
        Backoff.RETRY: (float(case.limits.retry_delay_seconds), RETRY_CAP_SECONDS),
        Backoff.STORAGE: (float(case.limits.storage_delay_seconds), STORAGE_CAP_SECONDS),
    }[case.row.backoff]
    doubled = base * 2.0 ** (max(1, case.failures) - 1)
    return min(doubled * (1 + SPREAD * chance(case.evidence)), cap)


def chance(evidence: Evidence) -> float:
    """Return a number from 0 to 1 that is a function of the run and the attempt."""
    name = f"{evidence.attempt.run}/{evidence.attempt.job_id}/{evidence.attempt.number}"
    return hashlib.sha256(name.encode()).digest()[0] / 255


# The node ledger ----------------------------------------------------------------------------------


def suspects(case: RetryCase) -> tuple[NodeEntry, ...]:
    """Return this attempt's entries for the node ledger, one per node: the worst, with the evidence
    of all that are as bad.
    """
    if not case.on_slurm:
        return ()
    entries = [*finding_entries(case), *cause_entries(case)]
    entries.sort(key=lambda entry: node_ledger.SEVERITY.index(entry.verdict))
    worst: dict[str, list[NodeEntry]] = {}
    for item in entries:
        same = worst.setdefault(item.node, [item])
        if item.verdict == same[0].verdict and item is not same[0]:
            same.append(item)
    return tuple(
        replace(same[0], evidence=diagnosis_text.joined(item.evidence for item in same))
        for same in worst.values()
    )


def cause_entries(case: RetryCase) -> list[NodeEntry]:
    """Return the entry for the diagnosis' node, unless a finding has a more exact one."""
    diagnosis, listed = (
        case.diagnosis,
        {finding.node for finding in case.evidence.observed.findings},
    )
    if not diagnosis.node or not case.row.entry or diagnosis.node in listed:
        return []
    code = diagnosis.cause.value.upper()
    return [entry(case, diagnosis.node, case.row.entry, code, diagnosis.sentence)]


def finding_entries(case: RetryCase) -> list[NodeEntry]:
    """Return an entry per finding against a node, whatever ended the attempt."""
    return [
        entry(
            case,
            finding.node,
            node_ledger.verdict_of(finding),
            finding.code,
            finding.message,
            finding.gpu_uuid,
        )
        for finding in case.evidence.observed.findings
        if finding.verdict in ("FATAL", "DRAIN") and not failure_causes.is_storage(finding)
    ]


def entry(
    case: RetryCase, node: str, verdict: str, code: str, evidence: str, gpu_uuid: str = ""
) -> NodeEntry:
    attempt = case.evidence.attempt
    return node_ledger.strike(
        node,
        verdict,
        code,
        evidence,
        case.now,
        run=attempt.run,
        stage=attempt.stage,
        attempt=attempt.number,
        gpu_uuid=gpu_uuid,
    )
