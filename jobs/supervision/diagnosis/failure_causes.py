"""Causes among the ranks and their nodes: hardware, memory, hangs, exceptions; one rule per cause.
Pure.
"""

from __future__ import annotations

import signal

from jobs.contract.outcomes import NodeFinding, RootCause
from jobs.health import xid
from jobs.health.xid import XidAction
from jobs.slurm.states import JobState
from jobs.supervision.diagnosis import first_failure, log_patterns
from jobs.supervision.diagnosis.diagnosis_text import (
    DiagnosisText,
    at_step,
    attempt_name,
    job_name,
    joined,
    node_of,
    of_node,
    only_node,
    rank_name,
    shortened,
    signal_name,
    slurm_state,
)
from jobs.supervision.diagnosis.evidence import Evidence, RankExit

STORAGE_FINDINGS = frozenset({"disk"})
"""Findings about the storage all nodes share."""


def unhealthy_node(evidence: Evidence) -> DiagnosisText | None:
    """Return a FATAL finding: of the preflight check, or of a GPU that failed under load."""
    fatal = [finding for finding in evidence.observed.findings if finding.verdict == "FATAL"]
    if not fatal:
        return None
    first = fatal[0]
    if all(is_storage(finding) for finding in fatal):
        return DiagnosisText(
            RootCause.STORAGE, f"{first.node}: {first.message}", parts=("", first.code)
        )
    cause = RootCause.GPU_HARDWARE if evidence.observed.ranks_started else RootCause.UNHEALTHY
    first = next(finding for finding in fatal if not is_storage(finding))
    found = [f"{item.message} ({item.code})" for item in fatal if item.node == first.node]
    sentence = f"{first.node} is unhealthy: {joined(found)}"
    return DiagnosisText(cause, sentence, first.node, parts=("", first.code))


def left_node(evidence: Evidence) -> DiagnosisText | None:
    """Return the move away from a node that is to be drained, unless a rank failed first."""
    finding = evidence.observed.left_for
    if finding is None or first_failure.has_failed_rank(evidence):
        return None
    sentence = f"the ranks left {finding.node}{at_step(evidence)}: {finding.message}"
    parts = ("", finding.code)
    return DiagnosisText(
        RootCause.UNHEALTHY, f"{sentence} ({finding.code})", finding.node, parts=parts
    )


def is_storage(finding: NodeFinding) -> bool:
    """Return whether a finding is about the storage that all nodes share, so that no node is a
    suspect.
    """
    match = log_patterns.search(finding.message)
    cause = log_patterns.CAUSES[match[0]] if match else None
    return finding.code in STORAGE_FINDINGS or cause is RootCause.STORAGE


def bad_gpu(evidence: Evidence) -> DiagnosisText | None:
    """Return a GPU failure: a hardware XID, or a CUDA error on a node with a finding."""
    for sign in evidence.traces.log_signs:
        number = sign.number
        if number is not None and xid.action(number) in (XidAction.EXCLUDE, XidAction.REPAIR):
            node = node_of(evidence, sign.rank)
            sentence = f"a GPU{of_node(node)} reported XID {number}{at_step(evidence)}"
            return DiagnosisText(RootCause.GPU_HARDWARE, sentence, node, parts=(f"XID {number}",))
    first = first_failure.first_failure(evidence)
    if first is None or first_failure.cause_of(evidence, first) is not RootCause.CUDA_ERROR:
        return None
    for finding in evidence.observed.findings:
        if finding.node == first.node:
            reported = f"{finding.message} ({finding.code})"
            sentence = f"{rank_name(first)} failed with a CUDA error, and {reported}"
            return DiagnosisText(
                RootCause.GPU_HARDWARE, sentence, first.node, parts=("", finding.code)
            )
    return None


def host_memory(evidence: Evidence) -> DiagnosisText | None:
    is_logged = any(sign.name == "oom_kill" for sign in evidence.traces.log_signs)
    if not (is_logged or evidence.traces.oom_kills or slurm_state(evidence) == "OUT_OF_MEMORY"):
        return None
    killed = next((rank for rank in evidence.traces.ranks if rank.code == -signal.SIGKILL), None)
    victim = rank_name(killed) if killed else f"a process of {attempt_name(evidence)}"
    sentence = f"{victim} was killed because its node ran out of memory{at_step(evidence)}"
    hint = "request more memory, or use fewer data workers"
    return DiagnosisText(
        RootCause.HOST_OOM, sentence, killed.node if killed else "", hint, ("oom_kill",)
    )


def hang_detected(evidence: Evidence) -> DiagnosisText | None:
    """Return a hang, unless a rank failed by itself, for which the others wait."""
    hang = evidence.observed.hang
    if hang is None or first_failure.has_failed_rank(evidence):
        return None
    rank = "" if hang.rank is None else f": rank {hang.rank}{of_node(hang.node)} stopped first"
    detail = f" ({hang.detail})" if hang.detail and rank else ""
    collectives = f"; {hang.collectives}" if hang.collectives else ""
    sentence = (
        f"no progress in phase {hang.phase} for {hang.seconds:,.0f} s"
        f"{at_step(evidence)}{rank}{detail}{collectives}"
    )
    parts = (hang.phase, "" if hang.rank is None else str(hang.rank))
    return DiagnosisText(RootCause.HANG, sentence, hang.node, parts=parts)


def supervisor_killed(evidence: Evidence) -> DiagnosisText | None:
    """Return the death of the supervisor by a signal; Slurm then kills the ranks."""
    if not evidence.slurm.supervisor_signal:
        return None
    name = signal_name(evidence.slurm.supervisor_signal)
    sentence = f"the supervisor of {job_name(evidence)} was killed by {name}{at_step(evidence)}"
    return DiagnosisText(RootCause.CRASH, sentence)


def unrecorded(evidence: Evidence) -> DiagnosisText | None:
    """Return a failure of which nothing shows the cause, while the storage takes no record of it.

    A recorded exception, a signal, a timeout and a line of the log show another cause.
    """
    first = first_failure.first_failure(evidence)
    if not evidence.observed.storage_refuses or is_explained(evidence, first):
        return None
    name = rank_name(first) if first else attempt_name(evidence)
    failure = evidence.observed.message or f"{name} failed{at_step(evidence)} without a record"
    sentence = f"{failure}; the run directory takes no files"
    hint = "free some space, or check the storage"
    return DiagnosisText(RootCause.STORAGE, sentence, hint=hint, parts=("", "unrecorded"))


def is_explained(evidence: Evidence, first: RankExit | None) -> bool:
    """Return whether a record, an exit code or the log shows the cause of the first failure."""
    if first is not None:
        cause = first_failure.cause_of(evidence, first)
        return first.kind != "" or cause is not RootCause.EXCEPTION
    texts = (unnamed_rank(evidence), log_signature(evidence), peers_lost(evidence))
    return any(text is not None and text.cause is not RootCause.UNKNOWN for text in texts)


def rank_failed(evidence: Evidence) -> DiagnosisText | None:
    """Return the first rank failure: its exception, its signal, or its log."""
    first = first_failure.first_failure(evidence)
    if first is None:
        return None
    cause = first_failure.cause_of(evidence, first)
    if first.code < 0 and cause is RootCause.CRASH:
        return killed_rank(evidence, first)
    text = (
        first.message or first_failure.first_sign_line(evidence, first) or f"exit code {first.code}"
    )
    sentence = f"{rank_name(first)} failed{at_step(evidence)}: {shortened(text)}"
    if cause is RootCause.CONFIGURATION and first.message:
        sentence = shortened(text)  # it names the location; which rank was first is chance
    rank = str(first.rank) if cause in first_failure.OF_ONE_RANK else ""
    parts = (first.kind, first.frame, first_failure.normalised(text), rank)
    return DiagnosisText(cause, sentence, first.node, first.hint, parts)


def killed_rank(evidence: Evidence, rank: RankExit) -> DiagnosisText:
    """Return the death of a rank by a signal. SIGKILL comes from outside, so that two of them are
    not the same failure.
    """
    number = -rank.code
    sentence = f"{rank_name(rank)} was killed by {signal_name(number)}{at_step(evidence)}"
    hint = "check the size of /dev/shm on its node" if number == signal.SIGBUS else ""
    parts = () if number == signal.SIGKILL else (signal_name(number), str(rank.rank))
    return DiagnosisText(RootCause.CRASH, sentence, rank.node, hint, parts)


def unnamed_rank(evidence: Evidence) -> DiagnosisText | None:
    """Return the death by a signal of a rank that neither srun nor the launcher names."""
    code = evidence.observed.code
    if code is None or code >= 0:
        return None
    sentence = f"a rank was killed by {signal_name(-code)}{at_step(evidence)}"
    return DiagnosisText(RootCause.CRASH, sentence, only_node(evidence))


def log_signature(evidence: Evidence) -> DiagnosisText | None:
    """Return the first signature in the log, where no rank wrote a record."""
    for sign in evidence.traces.log_signs:
        cause = first_failure.cause_of_sign(sign)
        if sign.name not in log_patterns.SYMPTOMS and cause is not RootCause.UNKNOWN:
            of_rank = "" if sign.rank is None else f" of rank {sign.rank}"
            sentence = f"the log{of_rank} has{at_step(evidence)}: {shortened(sign.line)}"
            rank = "" if sign.rank is None else str(sign.rank)
            return DiagnosisText(
                cause, sentence, node_of(evidence, sign.rank), parts=(sign.name, rank)
            )
    return None


def peers_lost(evidence: Evidence) -> DiagnosisText | None:
    """Return the loss of a peer, where every rank reports another one's end and none its own."""
    symptoms = [rank for rank in evidence.traces.ranks if first_failure.is_symptom(evidence, rank)]
    matches = [log_patterns.search(rank.message) for rank in symptoms]
    names = {match[0] for match in matches if match}
    names |= {sign.name for sign in evidence.traces.log_signs}
    if not symptoms and not names & log_patterns.SYMPTOMS:
        return None
    one = rank_name(symptoms[0]) if symptoms else "a rank"
    if any(log_patterns.CAUSES[name] is RootCause.HANG for name in names):
        sentence = f"{one} waited too long for the others{at_step(evidence)}"
        return DiagnosisText(RootCause.HANG, sentence, parts=("collective",))
    return DiagnosisText(
        RootCause.UNKNOWN,
        f"{one} lost another rank{at_step(evidence)}, and no rank reported a cause",
    )


def not_started(evidence: Evidence) -> DiagnosisText | None:
    if evidence.observed.ranks_started:
        return None
    sentence = (
        evidence.observed.message or f"the ranks of {attempt_name(evidence)} were not started"
    )
    return DiagnosisText(RootCause.LAUNCH, sentence, hint=evidence.observed.hint)


def unknown(evidence: Evidence) -> DiagnosisText:
    """Return the diagnosis where no rule applies."""
    if evidence.observed.code == 0:
        return DiagnosisText(
            RootCause.UNKNOWN, f"the ranks of {attempt_name(evidence)} exited before their target"
        )
    return DiagnosisText(RootCause.UNKNOWN, evidence.observed.message or unexplained(evidence))


def unexplained(evidence: Evidence) -> str:
    """Return which processes ended: the job's, or only the ranks while Slurm runs the job."""
    state = evidence.slurm.state
    if JobState.from_slurm(state) in (JobState.ACTIVE, JobState.QUEUED):
        return (
            f"the ranks of {attempt_name(evidence)} ended{at_step(evidence)} without a known cause"
        )
    as_state = f" as {state}" if state else ""
    return f"{job_name(evidence)} ended{as_state}{at_step(evidence)} without a known cause"
