"""Root-cause classification: ordered rules over the evidence; the first that applies decides.

Requests and actions of Slurm precede failures. Among failures the first in time is the cause, not
the longest message: ranks that lose a peer print long errors, a rank that was killed prints none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from jobs.contract.outcomes import Diagnosis, RootCause
from jobs.supervision.diagnosis import external_causes, failure_causes
from jobs.supervision.diagnosis.diagnosis_text import DiagnosisText, Rule, one_line
from jobs.supervision.diagnosis.evidence import Evidence

EXTERNAL_RULES: tuple[Rule, ...] = (
    external_causes.target_reached,
    external_causes.cancelled,
    external_causes.stop_request,
    external_causes.refused,
    external_causes.preempted,
    external_causes.node_failed,
)
FAILURE_RULES: tuple[Rule, ...] = (
    external_causes.time_limit,
    external_causes.signalled,
    failure_causes.unhealthy_node,
    failure_causes.left_node,
    failure_causes.bad_gpu,
    failure_causes.host_memory,
    failure_causes.hang_detected,
    failure_causes.supervisor_killed,
    failure_causes.unrecorded,
    failure_causes.rank_failed,
    failure_causes.unnamed_rank,
    failure_causes.log_signature,
    failure_causes.peers_lost,
    failure_causes.not_started,
)


def classify(evidence: Evidence) -> Diagnosis:
    """Return the root cause of an attempt's end. Pure; without evidence it is UNKNOWN.

    The diagnosis by the attempt's own supervisor precedes what can be observed later; only external
    causes may become known after it.
    """
    external = first_match(EXTERNAL_RULES, evidence)
    if external is not None:
        return with_fingerprint(external)
    if (
        evidence.observed.diagnosis is not None
        and evidence.observed.diagnosis.cause is not RootCause.UNKNOWN
    ):
        return evidence.observed.diagnosis
    return with_fingerprint(
        first_match(FAILURE_RULES, evidence) or failure_causes.unknown(evidence)
    )


def first_match(rules: Iterable[Rule], evidence: Evidence) -> DiagnosisText | None:
    """Return the result of the first rule that applies."""
    return next((text for rule in rules if (text := rule(evidence)) is not None), None)


def with_fingerprint(text: DiagnosisText) -> Diagnosis:
    """Return the diagnosis that a text describes, with its fingerprint."""
    digest = fingerprint(text.cause, *text.parts) if text.parts else ""
    return Diagnosis(text.cause, one_line(text.sentence), text.node, digest, text.hint)


def fingerprint(cause: RootCause, *parts: str) -> str:
    """Return twelve hex digits, equal for the same failure on any node."""
    return hashlib.sha256("\0".join((cause.value, *parts)).encode()).hexdigest()[:12]
