"""Causes outside the ranks: requests of people, and actions of Slurm. One rule per cause. Pure."""

from __future__ import annotations

import signal

from jobs.contract.outcomes import RootCause
from jobs.slurm.states import was_cancelled
from jobs.supervision.diagnosis import first_failure
from jobs.supervision.diagnosis.diagnosis_text import (
    DiagnosisText,
    at_step,
    first_word,
    job,
    only_node,
    task,
)
from jobs.supervision.diagnosis.evidence import Evidence


def target_reached(evidence: Evidence) -> DiagnosisText | None:
    if not evidence.attempt.done:
        return None
    return DiagnosisText(RootCause.COMPLETED, f"{evidence.attempt.stage} reached its target")


def cancelled(evidence: Evidence) -> DiagnosisText | None:
    """Before the file STOP: who cancels a run that is leaving does not want the next one either."""
    attempt, slurm = evidence.attempt, evidence.slurm
    if not (attempt.cancelled or slurm.cancelled or was_cancelled(slurm.state)):
        return None
    who_asked = "owner" if attempt.cancelled else slurm.cancelled_by
    by = {"admin": "an administrator", "owner": "its owner"}.get(who_asked, "somebody")
    return DiagnosisText(RootCause.CANCELLED, f"{task(evidence)} was cancelled by {by}")


def stop_asked(evidence: Evidence) -> DiagnosisText | None:
    if not evidence.attempt.stop_requested:
        return None
    return DiagnosisText(
        RootCause.STOPPED, f"{task(evidence)} was asked to save and leave{at_step(evidence)}"
    )


def refused(evidence: Evidence) -> DiagnosisText | None:
    if not evidence.observed.configuration:
        return None
    sentence = (
        evidence.observed.message or f"{evidence.attempt.stage} cannot be run as it is configured"
    )
    return DiagnosisText(RootCause.CONFIGURATION, sentence, hint=evidence.observed.hint)


def preempted(evidence: Evidence) -> DiagnosisText | None:
    """Return a preemption, also one by a person's ``scontrol requeue``."""
    word = first_word(evidence)
    if evidence.slurm.preempted or word == "PREEMPTED":
        return DiagnosisText(
            RootCause.PREEMPTED, f"{job(evidence)} was preempted{at_step(evidence)}"
        )
    if word == "REQUEUED":
        return DiagnosisText(
            RootCause.PREEMPTED, f"{job(evidence)} was requeued{at_step(evidence)}"
        )
    return None


def storage_refused(evidence: Evidence) -> DiagnosisText | None:
    """Return a requeue by the supervisor itself, whose storage took no record of the end.

    A requeue by Slurm or a person signals the supervisor, which records the signal within a second
    and its own diagnosis when the ranks are gone; only storage that takes no files prevents both.
    """
    is_requeued = first_word(evidence) == "REQUEUED" and not evidence.slurm.preempted
    is_recorded = evidence.attempt.recorded_signals or evidence.observed.diagnosis is not None
    if not is_requeued or is_recorded or evidence.site.in_allocation:
        return None
    return DiagnosisText(
        RootCause.STORAGE,
        f"{job(evidence)} was requeued{at_step(evidence)} and its supervisor recorded no reason, "
        "as where the storage takes no files",
    )


def node_failed(evidence: Evidence) -> DiagnosisText | None:
    if not (evidence.traces.failed_node or first_word(evidence) in ("NODE_FAIL", "BOOT_FAIL")):
        return None
    node = evidence.traces.failed_node or only_node(evidence)
    who = node or f"a node of {job(evidence)}, Slurm does not say which,"
    return DiagnosisText(RootCause.NODE_FAIL, f"{who} failed{at_step(evidence)}", node)


def time_limit(evidence: Evidence) -> DiagnosisText | None:
    """Slurm's word, or the early signal; not for what broke before, or while saving."""
    early = signal.SIGUSR2 in evidence.observed.signals and evidence.site.scheduler == "slurm"
    if not (early or first_word(evidence) == "TIMEOUT") or first_failure.broken(evidence):
        return None
    sentence = f"{job(evidence)} came to its time limit{at_step(evidence)}"
    return DiagnosisText(RootCause.TIME_LIMIT, sentence)


def signalled(evidence: Evidence) -> DiagnosisText | None:
    """SIGTERM alone does not say who ends a job of Slurm; on this machine it is a person."""
    if not evidence.observed.signals or first_failure.broken(evidence):
        return None
    if evidence.site.scheduler != "slurm":
        return DiagnosisText(
            RootCause.STOPPED, f"{task(evidence)} was stopped by a signal{at_step(evidence)}"
        )
    sentence = f"{job(evidence)} is being ended{at_step(evidence)} and Slurm does not say why"
    return DiagnosisText(RootCause.UNKNOWN, sentence)
