"""Why an attempt ended: a table of questions, asked in order; the first that knows answers.

The order of the questions is the order of their weight: who asked the attempt to end,
then what broke. Of what broke, the first in time is the cause and not the loudest: ranks that lose
a peer complain at length, the one that died says nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from jobs.contract.outcomes import Diagnosis, RootCause
from jobs.supervision.diagnosis import external_causes, failure_causes
from jobs.supervision.diagnosis.diagnosis_text import DiagnosisText, Rule, one_line
from jobs.supervision.diagnosis.evidence import Evidence

WHO_ASKED: tuple[Rule, ...] = (
    external_causes.target_reached,
    external_causes.cancelled,
    external_causes.stop_asked,
    external_causes.refused,
    external_causes.storage_refused,
    external_causes.preempted,
    external_causes.node_failed,
)
WHAT_HAPPENED: tuple[Rule, ...] = (
    external_causes.time_limit,
    external_causes.signalled,
    failure_causes.unfit_node,
    failure_causes.bad_gpu,
    failure_causes.host_memory,
    failure_causes.hung,
    failure_causes.supervisor_killed,
    failure_causes.rank_failed,
    failure_causes.unnamed_rank,
    failure_causes.log_alone,
    failure_causes.peers_lost,
    failure_causes.not_started,
)


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
    return verdict(first_answer(WHAT_HAPPENED, evidence) or failure_causes.unknown(evidence))


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
