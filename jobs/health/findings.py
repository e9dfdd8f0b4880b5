"""The words of health: verdict, action, finding, and what is expected of a node."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jobs.health.sample import Gpu, Sample, Unknown


class HealthVerdict(enum.IntEnum):
    """How bad it is; a larger one wins. UNKNOWN beats OK: what was not seen is not well."""

    OK = 0
    UNKNOWN = 1
    """The probe has no value; work continues."""
    WARN = 2
    """Worth telling; work continues."""
    DRAIN = 3
    """The node should leave when idle; work continues."""
    FATAL = 4
    """The node cannot do the job."""


class NodeAction(enum.Enum):
    """What to do with the node."""

    NONE = "none"
    RETRY_SAME = "retry_same"
    """Not the node's fault: the same nodes will do once the cause is gone."""
    EXCLUDE_AFTER_JOB = "exclude_after_job"
    EXCLUDE_NOW = "exclude_now"


_ACTIONS = {
    HealthVerdict.DRAIN: NodeAction.EXCLUDE_AFTER_JOB,
    HealthVerdict.FATAL: NodeAction.EXCLUDE_NOW,
}


@dataclass(frozen=True)
class Subject:
    """A node, or one GPU of it. Cards get swapped, so a GPU is known by node and UUID."""

    node: str
    gpu: int | None = None
    uuid: str = ""

    def __str__(self) -> str:
        return self.node if self.gpu is None else f"{self.node} GPU {self.gpu}"


@dataclass(frozen=True)
class HealthFinding:
    """One observation."""

    code: str
    """Stable and machine-readable; one of ``jobs.health.node_checks.CODES``."""
    verdict: HealthVerdict
    action: NodeAction
    subject: Subject
    evidence: dict[str, Any]
    message: str
    """One sentence for people."""
    time: float

    def __str__(self) -> str:
        """One line for people: verdict, node, GPU, code and reason."""
        return f"{self.verdict.name} {self.subject}: {self.code}: {self.message}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with words for verdict and action."""
        words = {"verdict": self.verdict.name, "action": self.action.value}
        return {**dataclasses.asdict(self), **words}


@dataclass(frozen=True)
class Outcome:
    """What a check says; ``action`` is the verdict's usual one unless given."""

    verdict: HealthVerdict
    message: str
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    action: NodeAction | None = None


@dataclass(frozen=True)
class Expected:
    """What the node should be. None, zero and empty mean that nothing is expected."""

    gpus: int | None = None
    """None: whatever is there. 0: the work uses none, so none is examined."""
    gpu_kind: str = ""
    """A model as people write it: ``a100``, ``H100-SXM5-80GB``, ``rtx3090``."""
    min_shm_gb_per_gpu: float = 1.0
    """Below it NCCL and data loaders die of SIGBUS."""
    memory_gb: float = 0.0
    min_free_gb: float = 0.0
    idle: bool = True
    """Whether processes of our own user on a GPU are in the way too, as they are before a start."""
    skip: frozenset[str] = frozenset()
    """Codes not to look for."""


def finding(sample: Sample, code: str, outcome: Outcome, gpu: Gpu | None = None) -> HealthFinding:
    """An outcome about a sampled node, or about one of its GPUs, as a finding."""
    return finding_about(_subject(sample.node, gpu), code, outcome, sample.time)


def finding_about(subject: Subject, code: str, outcome: Outcome, time: float) -> HealthFinding:
    """An outcome as a finding, with the verdict's usual action unless it names another."""
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
    """UNKNOWN, with the reasons why these readings (name → reason) are missing."""
    reasons = sorted({reading.reason for reading in readings.values()})
    evidence = {name: dataclasses.asdict(reading) for name, reading in readings.items()}
    return Outcome(HealthVerdict.UNKNOWN, f"could not be read: {'; '.join(reasons)}", evidence)
