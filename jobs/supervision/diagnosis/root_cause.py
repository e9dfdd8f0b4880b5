"""Why an attempt ended: a table of questions, asked in order; the first that knows answers.

The order of the questions is the order of their weight: who asked the attempt to end,
then what broke. Of what broke, the first in time is the cause and not the loudest: ranks that lose
a peer complain at length, the one that died says nothing.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobs.contract.outcomes import Diagnosis, NodeFinding, RootCause
from jobs.health import xid
from jobs.health.xid import Xid
from jobs.slurm.states import JobState, was_cancelled
from jobs.supervision.diagnosis import first_failure, log_patterns
from jobs.supervision.diagnosis.evidence import Evidence, RankExit

MESSAGE_LIMIT = 300
"""Characters of an exception's message that a sentence repeats."""

STORAGE_FINDINGS = frozenset({"disk"})
"""Findings about the storage all nodes share."""


@dataclass(frozen=True)
class DiagnosisText:
    """What a verdict is made from, before its fingerprint."""

    cause: RootCause
    sentence: str
    node: str = ""
    hint: str = ""
    same: tuple[str, ...] = ()
    """What makes two failures the same one; empty when there is nothing to compare."""


Rule = Callable[[Evidence], DiagnosisText | None]


def classify(evidence: Evidence) -> Diagnosis:
    """Why the attempt ended. Pure; silence is UNKNOWN, never an innocent end.

    What the attempt's own supervisor saw is worth more than what is left to see later; only who
    asked the attempt to end may become known after it.
    """
    asked = first_answer(WHO_ASKED, evidence)
    if asked is not None:
        return verdict(asked)
    if (
        evidence.observed.diagnosis is not None
        and evidence.observed.diagnosis.cause is not RootCause.UNKNOWN
    ):
        return evidence.observed.diagnosis
    return verdict(first_answer(WHAT_HAPPENED, evidence) or unknown(evidence))


def first_answer(rules: Iterable[Rule], evidence: Evidence) -> DiagnosisText | None:
    """What the first rule says that knows."""
    return next((words for rule in rules if (words := rule(evidence)) is not None), None)


def verdict(words: DiagnosisText) -> Diagnosis:
    """The words with their fingerprint."""
    same = fingerprint(words.cause, *words.same) if words.same else ""
    return Diagnosis(words.cause, one_line(words.sentence), words.node, same, words.hint)


def fingerprint(cause: RootCause, *parts: str) -> str:
    """Twelve hex digits, equal for the same failure wherever it happens."""
    return hashlib.sha256("\0".join((cause.value, *parts)).encode()).hexdigest()[:12]


def one_line(text: str) -> str:
    """A sentence on one line, without its full stop, not longer than a message may be."""
    line = " ".join(text.split()).rstrip(". ")
    return line if len(line) <= 2 * MESSAGE_LIMIT else line[: 2 * MESSAGE_LIMIT - 1] + "…"


# Who asked the attempt to end ---------------------------------------------------------------------


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
    """Or queued again by somebody's ``scontrol requeue``, which is a preemption by hand."""
    word = first_word(evidence)
    if evidence.slurm.preempted or word == "PREEMPTED":
        return DiagnosisText(
            RootCause.PREEMPTED, f"{job(evidence)} was preempted{at_step(evidence)}"
        )
    if word == "REQUEUED":
        return DiagnosisText(
            RootCause.PREEMPTED, f"{job(evidence)} was queued again{at_step(evidence)}"
        )
    return None


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


# What broke ---------------------------------------------------------------------------------------


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


def supervisor_killed(evidence: Evidence) -> DiagnosisText | None:
    """Slurm ends the ranks of a job whose batch step is gone."""
    if not evidence.slurm.supervisor_signal:
        return None
    name = signal_name(evidence.slurm.supervisor_signal)
    sentence = f"the supervisor of {job(evidence)} was ended by {name}{at_step(evidence)}"
    return DiagnosisText(RootCause.CRASH, sentence)


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


WHO_ASKED: tuple[Rule, ...] = (
    target_reached,
    cancelled,
    stop_asked,
    refused,
    preempted,
    node_failed,
)
WHAT_HAPPENED: tuple[Rule, ...] = (
    time_limit,
    signalled,
    unfit_node,
    bad_gpu,
    host_memory,
    hung,
    supervisor_killed,
    rank_failed,
    unnamed_rank,
    log_alone,
    peers_lost,
    not_started,
)


# Words --------------------------------------------------------------------------------------------


def first_word(evidence: Evidence) -> str:
    """Slurm's state without what follows it (``CANCELLED by 1000``)."""
    return (evidence.slurm.state.split() or [""])[0].rstrip("+")


def task(evidence: Evidence) -> str:
    return f"attempt {evidence.attempt.number} of {evidence.attempt.stage}"


def job(evidence: Evidence) -> str:
    return f"job {evidence.attempt.job_id}" if evidence.attempt.job_id else task(evidence)


def who(rank: RankExit) -> str:
    return f"rank {rank.rank}{of_node(rank.node)}"


def of_node(node: str) -> str:
    return f" on {node}" if node else ""


def at_step(evidence: Evidence) -> str:
    return (
        "" if evidence.progress.last_step is None else f" at step {evidence.progress.last_step:,}"
    )


def signal_name(number: int) -> str:
    known = {item.value: item.name for item in signal.Signals}
    return known.get(number, f"signal {number}")


def shortened(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 1] + "…"


def only_node(evidence: Evidence) -> str:
    """The node of the allocation, where there is but one."""
    return evidence.site.nodes[0] if len(evidence.site.nodes) == 1 else ""


def node_of(evidence: Evidence, rank: int | None) -> str:
    """Where a rank ran, as far as that is known."""
    found = (item.node for item in evidence.traces.ranks if item.rank == rank)
    return next(found, "") or only_node(evidence)
