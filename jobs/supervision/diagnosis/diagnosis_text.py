"""The text of a diagnosis, and the phrases that its sentences share. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass

from jobs.contract.outcomes import RootCause
from jobs.supervision.diagnosis.evidence import Evidence, RankExit

MESSAGE_LIMIT = 300
"""Characters of an exception's message that a sentence repeats."""


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


def one_line(text: str) -> str:
    """A sentence on one line, without its full stop, not longer than a message may be."""
    line = " ".join(text.split()).rstrip(". ")
    return line if len(line) <= 2 * MESSAGE_LIMIT else line[: 2 * MESSAGE_LIMIT - 1] + "…"


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
