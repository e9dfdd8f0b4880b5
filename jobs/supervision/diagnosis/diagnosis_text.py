"""The text of a diagnosis, and the phrases that its sentences share. Pure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from jobs.contract.outcomes import RootCause
from jobs.supervision.diagnosis.evidence import Evidence, RankExit

MESSAGE_LIMIT = 300
"""Characters of an exception's message that a sentence repeats."""

MESSAGES = 3
"""Messages that a sentence repeats."""


@dataclass(frozen=True)
class DiagnosisText:
    """The parts of a diagnosis, before its fingerprint is computed."""

    cause: RootCause
    sentence: str
    node: str = ""
    hint: str = ""
    parts: tuple[str, ...] = ()
    """The input of the fingerprint: equal for equal failures; empty where none can be compared."""


Rule = Callable[[Evidence], DiagnosisText | None]


def one_line(text: str) -> str:
    """Return a sentence on one line, without its full stop, cut to twice ``MESSAGE_LIMIT``."""
    line = " ".join(text.split()).rstrip(". ")
    return line if len(line) <= 2 * MESSAGE_LIMIT else line[: 2 * MESSAGE_LIMIT - 1] + "…"


def joined(messages: Iterable[str]) -> str:
    """Return different messages in one, and the number of those that are too many."""
    different = list(dict.fromkeys(messages))
    more = len(different) - MESSAGES
    return "; ".join(different[:MESSAGES]) + (f"; and {more} more" if more > 0 else "")


def slurm_state(evidence: Evidence) -> str:
    """Return the job state without its suffix (``CANCELLED by 1000``)."""
    return (evidence.slurm.state.split() or [""])[0].rstrip("+")


def attempt_name(evidence: Evidence) -> str:
    return f"attempt {evidence.attempt.number} of {evidence.attempt.stage}"


def job_name(evidence: Evidence) -> str:
    return f"job {evidence.attempt.job_id}" if evidence.attempt.job_id else attempt_name(evidence)


def rank_name(rank: RankExit) -> str:
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
    """Return the node of an allocation of one node; empty for others."""
    return evidence.options.nodes[0] if len(evidence.options.nodes) == 1 else ""


def node_of(evidence: Evidence, rank: int | None) -> str:
    """Return the node of a rank; empty where it is not known."""
    nodes = (item.node for item in evidence.traces.ranks if item.rank == rank)
    return next(nodes, "") or only_node(evidence)
