"""The data of the live view: what is shown of one run, and of all runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.contract.events import AlarmEvent
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.speed import Speed
from meditron_cli.runs.views import RunView

MILLI = 1000.0


@dataclass(frozen=True)
class GpuReading:
    """The newest readings of a GPU; None for one that was not read."""

    utilisation: float | None
    """Per cent."""
    temperature: float | None
    """Degrees Celsius."""
    power_w: float | None
    verdict: str = ""
    """The worst of the findings that hold now, as ``WARN``; empty without any."""


@dataclass(frozen=True)
class NodeReading:
    """The newest report of a node's monitor."""

    node: str
    time: float
    gpus: tuple[GpuReading, ...]

    @classmethod
    def of_report(cls, report: Mapping[str, Any]) -> NodeReading:
        """Return what a report (``jobs.health.monitor.records``) has of GPUs."""
        verdicts: dict[int | None, str] = {}
        for finding in report["now"]:
            gpu, verdict = finding["subject"]["gpu"], finding["verdict"]
            verdicts[gpu] = max(verdicts.get(gpu, ""), verdict, key=severity)
        return cls(
            report["node"],
            report["time"],
            tuple(
                GpuReading(
                    gpu["utilisation"],
                    gpu["temperature"],
                    None if gpu["power"] is None else gpu["power"] / MILLI,
                    verdicts.get(gpu["index"], ""),
                )
                for gpu in report["newest"]
            ),
        )


SEVERITY = ("", "OK", "UNKNOWN", "WARN", "DRAIN", "FATAL")


def severity(verdict: str) -> int:
    """Return the rank of a verdict; an unknown one is the mildest."""
    return SEVERITY.index(verdict) if verdict in SEVERITY else 0


@dataclass(frozen=True)
class Curve:
    """The loss of a training, of the steps that count."""

    steps: Sequence[int]
    losses: Sequence[float]
    """In nats per token, one per step."""
    validation: tuple[int, float] | None = None
    """The step and loss of the last validation."""


@dataclass(frozen=True)
class LogEnd:
    """The newest lines of a log."""

    name: str
    """Its path in the run directory."""
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """The last query of the scheduler."""

    kind: str = ""
    """``slurm`` or ``local``; empty where nothing has to be asked."""
    at: float | None = None
    """When it answered; None before the first answer."""
    due: float = 0.0
    """When it is asked again."""
    silent: bool = False
    """Whether the last query had no answer."""
    asking: bool = False
    """Whether it is being asked."""


@dataclass(frozen=True)
class RunPage:
    """The data of one run's screen."""

    now: float
    view: RunView
    submitted_at: float | None = None
    etas: Mapping[str, float] = field(default_factory=dict)
    """Seconds until running stages end, where they can be estimated."""
    training: str = ""
    """The name of the training of ``curve`` and ``speed``: its stage, or ``finetune`` and its
    model; empty without one that has begun."""
    curve: Curve | None = None
    speed: Speed | None = None
    tokens_per_s: float | None = None
    """Of the last step."""
    goodput: float | None = None
    attempts: Sequence[Attempt] = ()
    """Of all stages, in the order in which they began."""
    open_attempts: Mapping[tuple[str, int, int], str] = field(default_factory=dict)
    """The state of the task of attempts that run or may run, and of one that has finished its task
    and whose end is about to be recorded; by stage, index and number."""
    last_steps: Mapping[tuple[str, int, int], int] = field(default_factory=dict)
    """The last step of each attempt of a training, by stage, index and number."""
    nodes: Sequence[NodeReading] = ()
    """Of the open attempts."""
    alarms: Sequence[AlarmEvent] = ()
    """The newest of each kind and node, oldest first."""
    log: LogEnd | None = None
    errors: Sequence[str] = ()
    """Sentences of ``reasons.task_errors``, each followed by its hint."""
    waiting: Sequence[str] = ()
    """Sentences of ``reasons.waiting``, each followed by its hint."""
    problem: str = ""
    """Why the run cannot be read now, so that this is how it was before."""
    asked: Asked = Asked()


@dataclass(frozen=True)
class RunRow:
    """A run in the list of all runs."""

    view: RunView
    changed: float
    """When an event was last recorded, seconds since 1970."""


@dataclass(frozen=True)
class RunsPage:
    """The data of the screen of all runs."""

    now: float
    root: str
    rows: Sequence[RunRow] = ()
    asked: Asked = Asked()
