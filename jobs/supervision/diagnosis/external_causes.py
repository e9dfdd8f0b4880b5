"""Causes outside the ranks: requests of people, and actions of Slurm. One rule per cause. Pure."""

from __future__ import annotations

import signal

from jobs.contract.outcomes import RootCause
from jobs.slurm.states import was_cancelled
from jobs.supervision.diagnosis import first_failure
from jobs.supervision.diagnosis.diagnosis_text import (
    DiagnosisText,
    at_step,
    attempt_name,
    job_name,
    only_node,
    slurm_state,
)
from jobs.supervision.diagnosis.evidence import Evidence


def target_reached(evidence: Evidence) -> DiagnosisText | None:
    if not evidence.attempt.done:
        return None
    return DiagnosisText(RootCause.COMPLETED, f"{evidence.attempt.stage} reached its target")


def cancelled(evidence: Evidence) -> DiagnosisText | None:
    """Return a cancellation. It precedes the file STOP: a cancelled run has no next attempt."""
    attempt, slurm = evidence.attempt, evidence.slurm
    if not (attempt.cancelled or slurm.cancelled or was_cancelled(slurm.state)):
        return None
    requester = "owner" if attempt.cancelled else slurm.cancelled_by
    by = {"admin": "an administrator", "owner": "its owner"}.get(requester, "somebody")
    return DiagnosisText(RootCause.CANCELLED, f"{attempt_name(evidence)} was cancelled by {by}")


def stop_request(evidence: Evidence) -> DiagnosisText | None:
    if not evidence.attempt.stop_requested:
        return None
    return DiagnosisText(
        RootCause.STOPPED,
        f"{attempt_name(evidence)} was requested to save and exit{at_step(evidence)}",
    )


def refused(evidence: Evidence) -> DiagnosisText | None:
    if not evidence.observed.is_configuration_error:
        return None
    sentence = (
        evidence.observed.message or f"{evidence.attempt.stage} cannot be run as it is configured"
    )
    return DiagnosisText(RootCause.CONFIGURATION, sentence, hint=evidence.observed.hint)


def preempted(evidence: Evidence) -> DiagnosisText | None:
    """Return a preemption, also one by a person's ``scontrol requeue``; none where the supervisor
    requeued the job because the storage took no files.
    """
    state = slurm_state(evidence)
    if evidence.slurm.preempted or state == "PREEMPTED":
        return DiagnosisText(
            RootCause.PREEMPTED, f"{job_name(evidence)} was preempted{at_step(evidence)}"
        )
    if state == "REQUEUED" and not evidence.slurm.storage_requeue:
        return DiagnosisText(
            RootCause.PREEMPTED, f"{job_name(evidence)} was requeued{at_step(evidence)}"
        )
    return None


def node_failed(evidence: Evidence) -> DiagnosisText | None:
    if not (evidence.traces.failed_node or slurm_state(evidence) in ("NODE_FAIL", "BOOT_FAIL")):
        return None
    node = evidence.traces.failed_node or only_node(evidence)
    name = node or f"an unidentified node of {job_name(evidence)}"
    return DiagnosisText(RootCause.NODE_FAIL, f"{name} failed{at_step(evidence)}", node)


def time_limit(evidence: Evidence) -> DiagnosisText | None:
    """Return a time limit, from the job state or the early signal, unless a rank failed first."""
    early = signal.SIGUSR2 in evidence.observed.signals and evidence.options.scheduler == "slurm"
    if not (early or slurm_state(evidence) == "TIMEOUT") or first_failure.has_failed_rank(evidence):
        return None
    sentence = f"{job_name(evidence)} reached its time limit{at_step(evidence)}"
    return DiagnosisText(RootCause.TIME_LIMIT, sentence)


def signalled(evidence: Evidence) -> DiagnosisText | None:
    """Return the end by a signal: on this machine by a person, under Slurm of unknown cause."""
    if not evidence.observed.signals or first_failure.has_failed_rank(evidence):
        return None
    if evidence.options.scheduler != "slurm":
        return DiagnosisText(
            RootCause.STOPPED,
            f"{attempt_name(evidence)} was stopped by a signal{at_step(evidence)}",
        )
    sentence = f"Slurm is ending {job_name(evidence)}{at_step(evidence)} and reports no reason"
    return DiagnosisText(RootCause.UNKNOWN, sentence)
