"""Times of a run from its files: attempts, interruptions, and the time per stage and bucket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from math import fsum
from typing import Any

from jobs.contract.events import SubmitEvent
from jobs.contract.metrics_log import (
    CountedSteps,
    MetricLine,
    MetricsLog,
    SpikeLine,
    counted_steps,
)
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import PRETRAIN, TRAINING_STAGES
from meditron_cli.reporting import goodput, interruptions
from meditron_cli.reporting.attempts import Attempt, attempts_of
from meditron_cli.reporting.goodput import TimeAccount, Work
from meditron_cli.reporting.interruptions import Interruption
from meditron_cli.runs.record import RunRecord
from meditron_cli.runs.state import ALIVE
from meditron_cli.runs.views import RunView

HOUR_SECONDS = 3600.0


@dataclass(frozen=True)
class StageTime:
    """Seconds of one stage; None for what has not happened yet."""

    wall_s: float | None
    """From its first start to its last end."""
    busy_s: float | None
    """In attempts, over all tasks."""
    queued_s: float | None
    """From each submission to its first start, without the time of unfinished earlier stages."""


@dataclass(frozen=True)
class RunTimes:
    """The time of a run."""

    attempts: tuple[Attempt, ...]
    """Of all stages, in the order in which they were started."""
    interruptions: tuple[Interruption, ...]
    trainings: Mapping[tuple[str, int], CountedSteps]
    """The metric lines that count of each training, by stage and index."""
    spikes: tuple[SpikeLine, ...]
    """Of pretraining, oldest first, also those of steps that were redone."""
    last_steps: Mapping[tuple[str, int, int], int]
    """The last step of each attempt of a training that made one, by stage, index and number."""
    accounts: Mapping[tuple[str, int], TimeAccount]
    """The time of each training that could start, by stage and index."""
    stages: Mapping[str, StageTime]
    total_s: float | None
    """From the first submission to the last end, or to now while anything is active."""
    node_hours: float
    gpu_hours: float
    """GPUs times the time that they were allocated; 0 on a partition without any."""

    @property
    def steps(self) -> CountedSteps:
        """Return the metric lines of pretraining that count."""
        return self.trainings.get((PRETRAIN, 0)) or counted_steps(())

    @property
    def training(self) -> TimeAccount | None:
        """Return the time of pretraining; None before it could start."""
        return self.accounts.get((PRETRAIN, 0))

    def goodput_of(self, stage: str, index: int) -> float | None:
        """Return the share of a training's time of steps that count; None before the first one."""
        account = self.accounts.get((stage, index))
        return account.goodput if account and account.buckets["training"] else None

    @property
    def goodput(self) -> float | None:
        """Return that of pretraining; of the finetunings together in a run that has only these."""
        if self.training is not None:
            return self.goodput_of(PRETRAIN, 0)
        wall = fsum(account.wall for account in self.accounts.values())
        trained = fsum(account.buckets["training"] for account in self.accounts.values())
        return trained / wall if trained else None

    @property
    def queued_s(self) -> float | None:
        """Return the seconds in the queue of all stages."""
        known = [item.queued_s for item in self.stages.values() if item.queued_s is not None]
        return fsum(known) if known else None

    def steps_of(self, attempt: Attempt) -> tuple[int | None, int | None]:
        """Return the step from which an attempt of training resumed, and its last one."""
        return attempt.step, self.last_steps.get((attempt.stage, attempt.index, attempt.number))

    def to_json(self) -> dict[str, Any]:
        """Return ``time``, ``attempts`` and ``interruptions`` as ``--json`` prints them."""
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


def measure(run: RunDir, record: RunRecord, view: RunView, now: float) -> RunTimes:
    """Return where the time of a run went, from a record that was read in full."""
    return Measurer(run).measure(record, view, now)


class Measurer:
    """Measures a run, repeatedly; of the metrics only new lines are read."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._lines: dict[tuple[str, int], tuple[MetricsLog, list[MetricLine]]] = {}

    def lines(self, stage: str, index: int) -> list[MetricLine]:
        """Return all metric lines of a training: the same list each time, with the new ones."""
        log, lines = self._lines.setdefault(
            (stage, index), (MetricsLog(self._run, stage, index), [])
        )
        lines.extend(log.read_new())
        return lines

    def measure(self, record: RunRecord, view: RunView, now: float) -> RunTimes:
        """Return where the time of the run went, from a record that was read in full."""
        trainings = [
            (name, index)
            for name, stage in record.stages.items()
            if name in TRAINING_STAGES
            for index in stage.indices
        ]
        return of_lines({task: self.lines(*task) for task in trainings}, record, view, now)


def of_lines(
    lines: Mapping[tuple[str, int], Sequence[MetricLine]],
    record: RunRecord,
    view: RunView,
    now: float,
) -> RunTimes:
    """Return where the time of a run went. Pure.

    Args:
        lines: of each training, by stage and index.
    """
    work = {task: goodput.work_of(read) for task, read in lines.items()}
    # A stage leaves a run where one task makes the corpus that several began.
    recorded = [item for item in attempts_of(record.history) if item.stage in view.stages]
    ended = [
        attempt
        for name, stage in view.stages.items()
        for attempt in with_ends(
            [item for item in recorded if item.stage == name], work, end_if_open(stage.state, now)
        )
    ]
    accounts = {
        task: found
        for task in lines
        if task[0] in view.stages and (found := account(record, view, task, ended, work[task], now))
    }
    stages = {name: stage_time(record, ended, name) for name in record.stages}
    if (PRETRAIN, 0) in accounts:
        queued = accounts[(PRETRAIN, 0)].buckets["queue"]
        stages[PRETRAIN] = replace(stages[PRETRAIN], queued_s=queued)
    nodes, gpus = hours(record, ended)
    corrected = correct(recorded, ended)
    return RunTimes(
        attempts=corrected,
        interruptions=tuple(interruptions.find(corrected, work)),
        trainings={task: counted_steps(read) for task, read in lines.items()},
        spikes=tuple(line for line in lines.get((PRETRAIN, 0), ()) if isinstance(line, SpikeLine)),
        last_steps={
            (*task, number): step
            for task, items in work.items()
            for number, step in goodput.last_steps(items).items()
        },
        accounts=accounts,
        stages=stages,
        total_s=total_seconds(record, view, ended, now),
        node_hours=nodes,
        gpu_hours=gpus,
    )


def correct(recorded: Iterable[Attempt], ended: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Return the recorded attempts, with corrected ends for those that ended."""
    ends = {(item.stage, item.index, item.number): item.ended for item in ended}
    return tuple(
        item
        if item.ended is None
        else replace(item, ended=ends.get((item.stage, item.index, item.number), item.ended))
        for item in recorded
    )


def end_if_open(state: str, now: float) -> float | None:
    """Return ``now`` for what may still be active, None for what has ended."""
    return now if state in ALIVE else None


def with_ends(
    recorded: Iterable[Attempt],
    work: Mapping[tuple[str, int], Sequence[Work]],
    end: float | None,
) -> list[Attempt]:
    """Return the attempts of one stage, each with an end; only trainings have metric lines."""
    by_task = sorted(recorded, key=lambda attempt: attempt.index)
    return [
        attempt
        for _, group in groupby(by_task, key=lambda attempt: attempt.index)
        for attempts in [list(group)]
        for attempt in goodput.with_ends(
            attempts, work.get((attempts[0].stage, attempts[0].index), ()), end
        )
    ]


def account(
    record: RunRecord,
    view: RunView,
    task: tuple[str, int],
    ended: Sequence[Attempt],
    work: Sequence[Work],
    now: float,
) -> TimeAccount | None:
    """Divide the time of a training; None before it could start."""
    stage, index = task
    others = [attempt for attempt in ended if attempt.stage != stage]
    attempts = [item for item in ended if (item.stage, item.index) == task]
    submission_times = [e.time for e in submissions(record, stage) if index in e.indices]
    ready = ready_at(record, view, stage, submission_times, [*others, *attempts])
    if ready is None:
        return None
    stage_view = view.stages[stage]
    end = end_if_open(stage_view.task_states.get(index, stage_view.state), now)
    return goodput.account(attempts, submission_times, work, ready, end)


def ready_at(
    record: RunRecord,
    view: RunView,
    stage: str,
    submission_times: Sequence[float],
    ended: Iterable[Attempt],
) -> float | None:
    """Return when a stage could have started: submitted, and the stages before it ended."""
    before = record.stages[stage].after
    began = min((item.began for item in ended if item.stage == stage), default=None)
    finished = all(view.stages[name].finished for name in before if name in view.stages)
    if not submission_times or (began is None and not finished):
        return None
    ends = [item.ended or 0.0 for item in ended if item.stage in before]
    return max([submission_times[0], *(end for end in ends if began is None or end <= began)])


def submissions(record: RunRecord, stage: str) -> list[SubmitEvent]:
    """Return all submissions of a stage, oldest first."""
    events = record.history.events
    return [event for event in events if isinstance(event, SubmitEvent) and event.stage == stage]


def stage_time(record: RunRecord, ended: Iterable[Attempt], stage: str) -> StageTime:
    """Return the time of one stage."""
    ended = list(ended)
    mine = [item for item in ended if item.stage == stage]
    ends = [item.ended or item.began for item in mine]
    lengths = [max(0.0, end - item.began) for item, end in zip(mine, ends, strict=True)]
    ready_times = [item.ended or 0.0 for item in ended if item.stage in record.stages[stage].after]
    return StageTime(
        wall_s=max(ends) - min(item.began for item in mine) if mine else None,
        busy_s=fsum(lengths) if mine else None,
        queued_s=queued_seconds(submissions(record, stage), mine, ready_times),
    )


def queued_seconds(
    submissions: Iterable[SubmitEvent], attempts: Iterable[Attempt], ready_times: Sequence[float]
) -> float | None:
    """Return the seconds that submissions waited once they could have started.

    Args:
        ready_times: when the tasks of the stages before ended.
    """
    first: dict[str, float] = {}
    for attempt in attempts:
        first[attempt.job_id] = min(attempt.began, first.get(attempt.job_id, attempt.began))
    waits: list[float] = []
    for event in submissions:
        began = min((first[job] for job in event.job_ids if job in first), default=None)
        if began is not None:
            before = [time for time in ready_times if time <= began]
            waits.append(max(0.0, began - max([event.time, *before])))
    return fsum(waits) if waits else None


def total_seconds(
    record: RunRecord, view: RunView, ended: Iterable[Attempt], now: float
) -> float | None:
    """Return the seconds from the first submission to the last end, or to now while active."""
    if record.submitted_at is None:
        return None
    alive = any(stage.state in ALIVE for stage in view.stages.values())
    ends = [item.ended or item.began for item in ended]
    end = now if alive or not ends else max(ends)
    return max(0.0, end - record.submitted_at)


def hours(record: RunRecord, ended: Sequence[Attempt]) -> tuple[float, float]:
    """Return node-hours and GPU-hours of all stages, whole nodes or not."""
    nodes = gpus = 0.0
    for name, stage in record.stages.items():
        mine = [item for item in ended if item.stage == name]
        held = goodput.node_seconds(mine, stage.nodes) / HOUR_SECONDS
        nodes += held
        gpus += held * stage.gpus_per_node
    return nodes, gpus
