"""When a run did what: attempts, interruptions, and where the time went, from its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from math import fsum
from typing import Any

from jobs.contract.attempt_history import Attempt
from jobs.contract.events import Event, ObservedEvent, SubmitEvent
from jobs.contract.files import read_lines
from jobs.contract.rundir import RunDir
from meditron_cli.reporting import goodput, interruptions
from meditron_cli.reporting.goodput import TRAINING, TimeAccount, Work
from meditron_cli.reporting.interruptions import Interruption
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.state import ALIVE, RunView

HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage; None where it has not come so far."""

    wall_s: float | None
    """From its first start to its last end."""
    busy_s: float | None
    """In attempts, over all tasks."""
    queued_s: float | None
    """Between a submission and the first task it started, less the time that the stages before
    still took; over all submissions."""


@dataclass(frozen=True)
class RunTimes:
    """The time of a run."""

    attempts: tuple[Attempt, ...]
    """Of all stages, in the order in which they were started."""
    interruptions: tuple[Interruption, ...]
    reached: Mapping[int, int]
    """The last step of each attempt of training that made one."""
    training: TimeAccount | None
    """None before training could start."""
    stages: Mapping[str, StageTime]
    total_s: float | None
    """From the first submission to the last end, or to now while anything goes on."""
    node_hours: float
    gpu_hours: float
    """GPUs times the time that they were allocated; 0 on a partition without any."""

    @property
    def goodput(self) -> float | None:
        """Share of the time that went into steps that count; None before the first one."""
        if self.training is None or not self.training.buckets["training"]:
            return None
        return self.training.goodput

    @property
    def queued_s(self) -> float | None:
        """Seconds in the queue, over all stages."""
        known = [item.queued_s for item in self.stages.values() if item.queued_s is not None]
        return fsum(known) if known else None

    def steps_of(self, attempt: Attempt) -> tuple[int | None, int | None]:
        """The step an attempt of training went on from, and the last one it made."""
        last = self.reached.get(attempt.number) if attempt.stage == TRAINING else None
        return attempt.step, last

    def to_json(self) -> dict[str, Any]:
        """``time``, ``attempts`` and ``interruptions`` as ``--json`` prints them."""
        return {
            "time": {
                "total_s": self.total_s,
                "queued_s": self.queued_s,
                "node_hours": self.node_hours,
                "gpu_hours": self.gpu_hours,
                "training": self.training.to_json() if self.training else None,
                "stages": {name: asdict(item) for name, item in self.stages.items()},
            },
            "attempts": [self._attempt(attempt) for attempt in self.attempts],
            "interruptions": [item.to_json() for item in self.interruptions],
        }

    def _attempt(self, attempt: Attempt) -> dict[str, Any]:
        names = ("stage", "job_id", "restarts", "began", "ended", "cause", "action", "node")
        first, last = self.steps_of(attempt)
        return {
            **{name: getattr(attempt, name) for name in names},
            "task": attempt.index,
            "attempt": attempt.number,
            "nodes": list(attempt.nodes),
            "step_from": first,
            "step_to": last,
            "reason": attempt.sentence,
        }


def measure(run: RunDir, record: RunRecord, seen: RunView, now: float) -> RunTimes:
    """Return where the time of a run went, from a record that was read in full."""
    events = record.history.events
    work = goodput.work_of(read_lines(run.metrics()))
    told = record.history.attempts()
    settled = [
        attempt
        for name, stage in seen.stages.items()
        for attempt in settle(
            [item for item in told if item.stage == name], work, now_or_never(stage.state, now)
        )
    ]
    ledger = account(record, seen, events, settled, work, now)
    spent = {name: stage_time(record, events, settled, name) for name in record.stages}
    if ledger is not None:
        known = asdict(spent[TRAINING]) | {"queued_s": ledger.buckets["queue"]}
        spent[TRAINING] = StageTime(**known)
    nodes, gpus = hours(record, settled)
    corrected = correct(told, settled)
    return RunTimes(
        attempts=corrected,
        interruptions=tuple(interruptions.find(corrected, work)),
        reached=goodput.last_steps(work),
        training=ledger,
        stages=spent,
        total_s=total_seconds(record, seen, settled, now),
        node_hours=nodes,
        gpu_hours=gpus,
    )


def correct(told: Iterable[Attempt], settled: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """The attempts as they were told, but with the true end of those that have ended."""
    ends = {(item.stage, item.index, item.number): item.ended for item in settled}
    return tuple(
        item
        if item.ended is None
        else replace(item, ended=ends.get((item.stage, item.index, item.number), item.ended))
        for item in told
    )


def now_or_never(state: str, now: float) -> float | None:
    """The present for what may go on by itself, None for what has ended."""
    return now if state in ALIVE else None


def settle(told: Iterable[Attempt], work: Sequence[Work], end: float | None) -> list[Attempt]:
    """The attempts of one stage, each with an end; only training has signs of life."""
    by_task = sorted(told, key=lambda attempt: attempt.index)
    return [
        attempt
        for _, group in groupby(by_task, key=lambda attempt: attempt.index)
        for attempt in settle_task(list(group), work, end)
    ]


def settle_task(told: list[Attempt], work: Sequence[Work], end: float | None) -> list[Attempt]:
    """The attempts of one task, each with an end."""
    return goodput.settle(told, work if told[0].stage == TRAINING else (), end)


def account(
    record: RunRecord,
    seen: RunView,
    events: Iterable[Event],
    settled: Sequence[Attempt],
    work: Sequence[Work],
    now: float,
) -> TimeAccount | None:
    """The ledger of training; None before it could start."""
    if TRAINING not in seen.stages:
        return None
    mine = [event for event in events if stage_of(event) in (TRAINING, None)]
    attempts = [attempt for attempt in settled if attempt.stage == TRAINING]
    ready = ready_at(record, seen, mine, settled)
    if ready is None:
        return None
    end = now_or_never(seen.stages[TRAINING].state, now)
    return goodput.account(mine, attempts, work, ready, end)


def stage_of(event: Event) -> str | None:
    """Return the stage that an event is about; None for one about the whole run."""
    subject = event.record if isinstance(event, ObservedEvent) else event
    return getattr(subject, "stage", None)


def ready_at(
    record: RunRecord,
    seen: RunView,
    events: Iterable[Event],
    settled: Iterable[Attempt],
) -> float | None:
    """When training could have started: once it was submitted and the stages before had ended."""
    submitted = [event.time for event in events if isinstance(event, SubmitEvent)]
    before = record.stages[TRAINING].after
    began = min((item.began for item in settled if item.stage == TRAINING), default=None)
    finished = all(seen.stages[name].finished for name in before if name in seen.stages)
    if not submitted or (began is None and not finished):
        return None
    ends = [item.ended or 0.0 for item in settled if item.stage in before]
    return max([submitted[0], *(end for end in ends if began is None or end <= began)])


def stage_time(
    record: RunRecord, events: Iterable[Event], settled: Iterable[Attempt], stage: str
) -> StageTime:
    """The time of one stage."""
    settled = list(settled)
    mine = [item for item in settled if item.stage == stage]
    ends = [item.ended or item.began for item in mine]
    lengths = [max(0.0, end - item.began) for item, end in zip(mine, ends, strict=True)]
    ready = [item.ended or 0.0 for item in settled if item.stage in record.stages[stage].after]
    return StageTime(
        wall_s=max(ends) - min(item.began for item in mine) if mine else None,
        busy_s=fsum(lengths) if mine else None,
        queued_s=queued_seconds(events, mine, ready, stage),
    )


def queued_seconds(
    events: Iterable[Event],
    attempts: Iterable[Attempt],
    ready: Sequence[float],
    stage: str,
) -> float | None:
    """Seconds that submissions waited for a place once they could have started.

    Args:
        ready: when the tasks of the stages before ended.
    """
    first: dict[str, float] = {}
    for attempt in attempts:
        first[attempt.job_id] = min(attempt.began, first.get(attempt.job_id, attempt.began))
    waits: list[float] = []
    for event in events:
        if not isinstance(event, SubmitEvent) or event.stage != stage:
            continue
        began = min((first[job] for job in event.job_ids if job in first), default=None)
        if began is not None:
            before = [time for time in ready if time <= began]
            waits.append(max(0.0, began - max([event.time, *before])))
    return fsum(waits) if waits else None


def total_seconds(
    record: RunRecord, seen: RunView, settled: Iterable[Attempt], now: float
) -> float | None:
    """Seconds from the first submission to the last end, or to now while anything goes on."""
    if record.submitted is None:
        return None
    alive = any(stage.state in ALIVE for stage in seen.stages.values())
    ends = [item.ended or item.began for item in settled]
    end = now if alive or not ends else max(ends)
    return max(0.0, end - record.submitted)


def hours(record: RunRecord, settled: Sequence[Attempt]) -> tuple[float, float]:
    """Node-hours and GPU-hours of all stages, whole nodes or not."""
    nodes = gpus = 0.0
    for name, stage in record.stages.items():
        mine = [item for item in settled if item.stage == name]
        held = goodput.node_seconds(mine, stage.nodes) / HOUR_SECONDS
        nodes += held
        gpus += held * stage.gpus_per_node
    return nodes, gpus
