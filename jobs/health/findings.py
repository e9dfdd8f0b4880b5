"""Types of health checks: verdict, action, finding, and the expectations of a node."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.contract.outcomes import NodeFinding
from jobs.health.sample import Gpu, Sample, Unknown


class HealthVerdict(enum.IntEnum):
    """Severity of a finding; the largest wins. UNKNOWN outranks OK: a missing value is not a good
    value.
    """

    OK = 0
    UNKNOWN = 1
    """The probe has no value; work continues."""
    WARN = 2
    """Worth reporting; work continues."""
    DRAIN = 3
    """The node should be drained when idle; work continues."""
    FATAL = 4
    """The node cannot do the job."""


class NodeAction(enum.Enum):
    """Action to take on the node."""

    NONE = "none"
    RETRY_SAME = "retry_same"
    """Not the node's fault: the same nodes work once the cause is gone."""
    EXCLUDE_AFTER_JOB = "exclude_after_job"
    EXCLUDE_NOW = "exclude_now"


_ACTIONS = {
    HealthVerdict.DRAIN: NodeAction.EXCLUDE_AFTER_JOB,
    HealthVerdict.FATAL: NodeAction.EXCLUDE_NOW,
}


@dataclass(frozen=True)
class Subject:
    """A node, or one of its GPUs, identified by node and UUID since cards are swapped."""

    node: str
    gpu: int | None = None
    uuid: str = ""

    def __str__(self) -> str:
        return self.node if self.gpu is None else f"{self.node} GPU {self.gpu}"


@dataclass(frozen=True)
class HealthFinding:
    """One observation of a health check."""

    code: str
    """Stable and machine-readable; one of ``jobs.health.node_checks.CODES``."""
    verdict: HealthVerdict
    action: NodeAction
    subject: Subject
    evidence: dict[str, Any]
    message: str
    """One sentence for users."""
    time: float

    def __str__(self) -> str:
        """Return one line: verdict, node, GPU, code and reason."""
        return f"{self.verdict.name} {self.subject}: {self.code}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with names for verdict and action."""
        words = {"verdict": self.verdict.name, "action": self.action.value}
        return {**dataclasses.asdict(self), **words}


@dataclass(frozen=True)
class Outcome:
    """Result of a check; ``action`` None means the verdict's default."""

    verdict: HealthVerdict
    message: str
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    action: NodeAction | None = None


@dataclass(frozen=True)
class Expected:
    """Expectations of a node. None, zero and empty expect nothing."""

    gpus: int | None = None
    """None: any number. 0: the work uses none, so none is examined."""
    gpu_kind: str = ""
    """A model as users write it: ``a100``, ``H100-SXM5-80GB``, ``rtx3090``."""
    min_shm_gb_per_gpu: float = 1.0
    """Below it NCCL and data loaders crash with SIGBUS."""
    memory_gb: float = 0.0
    min_free_gb: float = 0.0
    idle: bool = True
    """Whether the user's own processes on a GPU count as foreign too, as before a start."""
    skip: frozenset[str] = frozenset()
    """Codes of checks to skip."""


def finding(sample: Sample, code: str, outcome: Outcome, gpu: Gpu | None = None) -> HealthFinding:
    """Return an outcome about a node, or one of its GPUs, as a finding."""
    return finding_about(_subject(sample.node, gpu), code, outcome, sample.time)


AGAINST = (HealthVerdict.DRAIN.name, HealthVerdict.FATAL.name)


def against_nodes(reports: Iterable[Mapping[str, Any]]) -> list[NodeFinding]:
    """Return the findings against nodes of reports: of preflight checks or of monitors."""
    return [
        NodeFinding(
            report["node"], item["code"], item["verdict"], message_of(item),
            item.get("subject", {}).get("uuid") or "",
        )
        for report in reports
        for item in report["findings"]
        if item["verdict"] in AGAINST
    ]  # fmt: skip


def message_of(item: Mapping[str, Any]) -> str:
    """Return the message of a finding in a report, with its GPU."""
    gpu = item.get("subject", {}).get("gpu")
    return str(item["message"]) if gpu is None else f"GPU {gpu}: {item['message']}"


def finding_about(subject: Subject, code: str, outcome: Outcome, time: float) -> HealthFinding:
    """Return an outcome as a finding, with the verdict's default action unless it has its own."""
    return HealthFinding(
        code=code,
        verdict=outcome.verdict,
        action=outcome.action or _ACTIONS.get(outcome.verdict, NodeAction.NONE),
        subject=subject,
        evidence=outcome.evidence,
        message=outcome.message,
        time=time,
    )


def _subject(node: str, gpu: Gpu | None) -> Subject:
    if gpu is None:
        return Subject(node)
    return Subject(node, gpu.index, gpu.uuid if isinstance(gpu.uuid, str) else "")


def no_value(readings: Mapping[str, Unknown]) -> Outcome:
    """Return UNKNOWN, with the reason for each missing reading."""
    reasons = sorted({reading.reason for reading in readings.values()})
    evidence = {name: dataclasses.asdict(reading) for name, reading in readings.items()}
    return Outcome(HealthVerdict.UNKNOWN, f"could not be read: {'; '.join(reasons)}", evidence)


def on_off(value: bool) -> str:
    """Return the text of a mode."""
    return "on" if value else "off"
