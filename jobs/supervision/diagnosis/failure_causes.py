"""Causes among the ranks and their nodes: hardware, memory, hangs, exceptions; one rule per cause.
Pure.
"""

from __future__ import annotations

import signal

from jobs.contract.outcomes import NodeFinding, RootCause
from jobs.health import xid
from jobs.health.xid import Xid
from jobs.slurm.states import JobState
from jobs.supervision.diagnosis import first_failure, log_patterns
from jobs.supervision.diagnosis.diagnosis_text import (
    DiagnosisText,
    at_step,
    first_word,
    job,
    node_of,
    of_node,
    only_node,
    shortened,
    signal_name,
    task,
    who,
)
from jobs.supervision.diagnosis.evidence import Evidence, RankExit

STORAGE_FINDINGS = frozenset({"disk"})
"""Findings about the storage all nodes share."""


def unfit_node(evidence: Evidence) -> DiagnosisText | None:
    """FATAL findings: of the pre-flight, or of a GPU that failed at work."""
    fatal = [finding for finding in evidence.observed.findings if finding.verdict == "FATAL"]
    if not fatal:
        return None
    first = fatal[0]
    if all(is_storage(finding) for finding in fatal):
        return DiagnosisText(
            RootCause.STORAGE, f"{first.node}: {first.message}", same=("", first.code)
        )
    cause = RootCause.GPU_HARDWARE if evidence.observed.ranks_started else RootCause.UNHEALTHY
    first = next(finding for finding in fatal if not is_storage(finding))
    sentence = f"{first.node} is not fit for work: {first.message} ({first.code})"
    return DiagnosisText(cause, sentence, first.node, same=("", first.code))


def is_storage(finding: NodeFinding) -> bool:
    """Whether a finding is about the disk that all nodes share, so that no node is to blame."""
    match = log_patterns.search(finding.message)
    points_to = log_patterns.CAUSES[match[0]] if match else None
    return finding.code in STORAGE_FINDINGS or points_to is RootCause.STORAGE


def bad_gpu(evidence: Evidence) -> DiagnosisText | None:
    """An XID of the hardware, or a rank's CUDA error on a node with a finding against it."""
    for sign in evidence.traces.log_signs:
        number = sign.number
        if number is not None and xid.action(number) in (Xid.EXCLUDE, Xid.REPAIR):
            node = node_of(evidence, sign.rank)
            sentence = f"a GPU{of_node(node)} reported XID {number}{at_step(evidence)}"
            return DiagnosisText(RootCause.GPU_HARDWARE, sentence, node, same=(f"XID {number}",))
    first = first_failure.first_failure(evidence)
    if first is None or first_failure.told_by(evidence, first) is not RootCause.CUDA_ERROR:
        return None
    for finding in evidence.observed.findings:
        if finding.node == first.node:
            sentence = f"{who(first)} met a CUDA error, and {finding.message} ({finding.code})"
            return DiagnosisText(
                RootCause.GPU_HARDWARE, sentence, first.node, same=("", finding.code)
            )
    return None


def host_memory(evidence: Evidence) -> DiagnosisText | None:
    told = any(sign.name == "oom_kill" for sign in evidence.traces.log_signs)
    if not (told or evidence.traces.oom_kills or first_word(evidence) == "OUT_OF_MEMORY"):
        return None
    killed = next((rank for rank in evidence.traces.ranks if rank.code == -signal.SIGKILL), None)
    who_died = who(killed) if killed else f"a process of {task(evidence)}"
    sentence = f"{who_died} was ended because its node ran out of memory{at_step(evidence)}"
    hint = "ask for more memory, or use fewer data workers"
    return DiagnosisText(
        RootCause.HOST_OOM, sentence, killed.node if killed else "", hint, ("oom_kill",)
    )


def hung(evidence: Evidence) -> DiagnosisText | None:
    """Unless a rank failed by itself, which leaves the others waiting."""
    hang = evidence.observed.hang
    if hang is None or first_failure.broken(evidence):
        return None
    rank = "" if hang.rank is None else f": rank {hang.rank}{of_node(hang.node)} stopped first"
    detail = f" ({hang.detail})" if hang.detail and rank else ""
    sentence = (
        f"nothing moved in phase {hang.phase} for {hang.seconds:,.0f} s"
        f"{at_step(evidence)}{rank}{detail}"
    )
    same = (hang.phase, "" if hang.rank is None else str(hang.rank))
    return DiagnosisText(RootCause.HANG, sentence, hang.node, same=same)


def supervisor_killed(evidence: Evidence) -> DiagnosisText | None:
    """Slurm ends the ranks of a job whose batch step is gone."""
    if not evidence.slurm.supervisor_signal:
        return None
    name = signal_name(evidence.slurm.supervisor_signal)
    sentence = f"the supervisor of {job(evidence)} was ended by {name}{at_step(evidence)}"
    return DiagnosisText(RootCause.CRASH, sentence)


def rank_failed(evidence: Evidence) -> DiagnosisText | None:
    """The first rank that failed by itself: its exception, the signal that ended it, or its log."""
    first = first_failure.first_failure(evidence)
    if first is None:
        return None
    cause = first_failure.told_by(evidence, first)
    if first.code < 0 and cause is RootCause.CRASH:
        return killed_rank(evidence, first)
    text = first.message or first_failure.last_sign(evidence, first) or f"exit code {first.code}"
    sentence = f"{who(first)} failed{at_step(evidence)}: {shortened(text)}"
    if cause is RootCause.CONFIGURATION and first.message:
        sentence = shortened(text)  # it says where; which rank came to it first is chance
    rank = str(first.rank) if cause in first_failure.OF_ONE_RANK else ""
    same = (first.kind, first.frame, first_failure.normalised(text), rank)
    return DiagnosisText(cause, sentence, first.node, first.hint, same)


def killed_rank(evidence: Evidence, rank: RankExit) -> DiagnosisText:
    """A rank that a signal ended; SIGKILL comes from outside, so that two are not the same one."""
    number = -rank.code
    sentence = f"{who(rank)} was ended by {signal_name(number)}{at_step(evidence)}"
    hint = "look at the size of /dev/shm on its node" if number == signal.SIGBUS else ""
    same = () if number == signal.SIGKILL else (signal_name(number), str(rank.rank))
    return DiagnosisText(RootCause.CRASH, sentence, rank.node, hint, same)


def unnamed_rank(evidence: Evidence) -> DiagnosisText | None:
    """A signal ended a rank that nobody names."""
    code = evidence.observed.code
    if code is None or code >= 0:
        return None
    sentence = f"a rank was ended by {signal_name(-code)}{at_step(evidence)}"
    return DiagnosisText(RootCause.CRASH, sentence, only_node(evidence))


def log_alone(evidence: Evidence) -> DiagnosisText | None:
    """No rank left words, but the log knows what happened."""
    for sign in evidence.traces.log_signs:
        cause = first_failure.points_to(sign)
        if sign.name not in log_patterns.SYMPTOMS and cause is not RootCause.UNKNOWN:
            place = "" if sign.rank is None else f" of rank {sign.rank}"
            sentence = f"the log{place} says{at_step(evidence)}: {shortened(sign.line)}"
            rank = "" if sign.rank is None else str(sign.rank)
            return DiagnosisText(
                cause, sentence, node_of(evidence, sign.rank), same=(sign.name, rank)
            )
    return None


def peers_lost(evidence: Evidence) -> DiagnosisText | None:
    """Every rank blames another, and none says why."""
    symptoms = [rank for rank in evidence.traces.ranks if first_failure.is_symptom(evidence, rank)]
    matches = [log_patterns.search(rank.message) for rank in symptoms]
    names = {match[0] for match in matches if match}
    names |= {sign.name for sign in evidence.traces.log_signs}
    if not symptoms and not names & log_patterns.SYMPTOMS:
        return None
    one = who(symptoms[0]) if symptoms else "a rank"
    if any(log_patterns.CAUSES[name] is RootCause.HANG for name in names):
        sentence = f"{one} waited too long for the others{at_step(evidence)}"
        return DiagnosisText(RootCause.HANG, sentence, same=("collective",))
    return DiagnosisText(
        RootCause.UNKNOWN, f"{one} lost another rank{at_step(evidence)}, and none says why"
    )


def not_started(evidence: Evidence) -> DiagnosisText | None:
    if evidence.observed.ranks_started:
        return None
    sentence = evidence.observed.message or f"the ranks of {task(evidence)} were not started"
    return DiagnosisText(RootCause.LAUNCH, sentence, hint=evidence.observed.hint)


def unknown(evidence: Evidence) -> DiagnosisText:
    """What can be said when nothing is known."""
    if evidence.observed.code == 0:
        return DiagnosisText(
            RootCause.UNKNOWN, f"the ranks of {task(evidence)} left before their target"
        )
    return DiagnosisText(RootCause.UNKNOWN, evidence.observed.message or unexplained(evidence))


def unexplained(evidence: Evidence) -> str:
    """Return which process ended: the job, or only its ranks while Slurm shows the job alive."""
    state = evidence.slurm.state
    if JobState.from_slurm(state) in (JobState.ACTIVE, JobState.QUEUED):
        return f"the ranks of {task(evidence)} ended{at_step(evidence)}, nothing says why"
    ended = f" as {state}" if state else ""
    return f"{job(evidence)} ended{ended}{at_step(evidence)}, nothing says why"
