"""What a run directory says of its run: stages, the jobs their tasks were given to, how their last
attempts ended. Reading is cheap; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jobs.contract.files import read_small
from jobs.contract.outcomes import RetryAction
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import STAGES
from meditron_cli.errors import ConfigError
from meditron_cli.runs import events, request, store

INTENTS = ("intent", "withdraw", "submit")
ENDINGS = {"cancel": "cancelled", "stop": "stopped"}
KINDS = (*INTENTS, "start", "exit", "undo", *ENDINGS)
"""Events that decide who works on what."""

PROGRESS_FILES = 32
"""Progress files of a stage that are read at most."""

EXIT_MARK = b'"event": "exit"'


@dataclass(frozen=True)
class TaskJob:
    """The job that a task was last given to."""

    job_id: str
    attempt: int
    """The last one it started; before its first start the one it is to begin with."""
    time: float
    """When it was submitted, seconds since 1970."""
    scheduler: str


@dataclass(frozen=True)
class StopRequest:
    """Somebody asked for the end of everything submitted before."""

    time: float
    state: str
    """What its tasks are then: ``cancelled``, or ``stopped`` when they were asked to save first."""


@dataclass
class StageRecord:
    """What the run directory says of one stage."""

    stage: str
    total: int
    after: tuple[str, ...] = ()
    target_step: int | None = None
    target_tokens: int | None = None
    step_tokens: int | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    """Of one task."""
    done: set[int] = field(default_factory=set)
    jobs: dict[int, TaskJob] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    """Numbers of the attempts that have begun."""
    began_from: int = 0
    """Step of the checkpoint that the last attempt went on from."""
    recovery_jobs: tuple[str, ...] = ()
    """Jobs that wait for the end of this stage's, to continue what ended without a successor."""
    exits: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Exit records of each unfinished task's last attempt."""
    unanswered: dict[int, list[int]] = field(default_factory=dict)
    """Tasks by attempt whose submission began and left no job id: it was killed, or is at work."""
    progress: dict[str, Any] = field(default_factory=dict)
    """Of pretraining: its progress file."""
    running: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Progress files of the current attempts of unfinished tasks; of other stages than pretraining,
    and at most of ``PROGRESS_FILES`` tasks."""

    @property
    def attempts(self) -> int:
        """How many attempts have begun; the first one counts from its submission on."""
        return max(len(self.started), 1 if self.jobs else 0)


@dataclass
class RunRecord:
    """What the run directory says of a run."""

    name: str
    path: Path
    cluster: str = ""
    stages: dict[str, StageRecord] = field(default_factory=dict)
    submitted: float | None = None
    """Time of the first submission."""
    ending: StopRequest | None = None
    """The last cancellation or stop request."""
    problem: str = ""
    """Why the directory cannot be read; empty when it can."""
    hint: str = ""
    """What to do about the problem."""

    def require_readable(self) -> RunRecord:
        """Return the record itself, where the directory can be read.

        Raises:
            ConfigError: it cannot.
        """
        if self.problem:
            raise ConfigError(self.problem, hint=self.hint)
        return self


def read(run: RunDir) -> RunRecord:
    """Read a run's evidence: plan.json, events, names of done markers, exit records, progress."""
    record = RunRecord(run.name, run.root)
    try:
        plan = store.read_plan(run)
    except ConfigError as error:
        record.problem, record.hint = error.message, error.hint
        return record
    record.cluster = plan["cluster"]
    try:
        record.stages = dict(planned_stages(run, plan["stages"]))
    except (KeyError, TypeError, AttributeError):
        record.problem, record.hint = f"{run.plan}: the file is damaged", request.HINT_DAMAGED
        return record
    read_events(run, record)
    for stage_record in record.stages.values():
        read_exits(run, stage_record)
        if stage_record.stage != "pretrain":
            read_progress(run, stage_record)
    if "pretrain" in record.stages and record.stages["pretrain"].attempts:
        record.stages["pretrain"].progress = read_small(run.progress("pretrain", 0))
    return record


def planned_stages(
    run: RunDir, summaries: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, StageRecord]]:
    """Yield the record of each planned stage, in pipeline order, with its finished tasks."""
    for stage in (name for name in STAGES if name in summaries):
        summary = summaries[stage]
        yield (
            stage,
            StageRecord(
                stage,
                total=summary["tasks"],
                after=tuple(summary["after"]),
                target_step=summary.get("target_step"),
                target_tokens=summary.get("target_tokens"),
                step_tokens=summary.get("step_tokens"),
                nodes=summary["resources"]["nodes"],
                gpus_per_node=summary["resources"]["gpus_per_node"],
                done=done_indices(run, stage, summary["tasks"]),
            ),
        )


def read_progress(run: RunDir, stage: StageRecord) -> None:
    """Read the progress of unfinished tasks, where they are few: the finished ones of many tell
    how far a stage is.
    """
    unfinished = [
        index for index in stage.jobs if index not in stage.done and index not in stage.exits
    ]
    if len(unfinished) > PROGRESS_FILES:
        return
    for index in unfinished:
        progress = read_small(run.progress(stage.stage, index))
        if progress.get("attempt") == stage.jobs[index].attempt:
            stage.running[index] = progress


def done_indices(run: RunDir, stage: str, total: int) -> set[int]:
    """Indices of the tasks that have a done marker."""
    try:
        with os.scandir(run.stage(stage) / "done") as entries:
            found = [entry.name[:-5] for entry in entries if entry.name.endswith(".json")]
    except FileNotFoundError:
        return set()
    return {int(name) for name in found if name.isdigit() and int(name) < total}


def read_events(run: RunDir, record: RunRecord) -> None:
    """Put intents, submissions and cancellations into the record."""
    given: list[dict[str, Any]] = []
    for event in events.parse(worth_parsing(events.lines(run), record), KINDS):
        kind = event["event"]
        if kind in INTENTS:
            note_intent(record, event)
        if kind in NOTES:
            given.append(event)
        elif kind == "undo":
            gone = set(event["job_ids"])
            given = [item for item in given if not gone.issuperset(item.get("job_ids", ("",)))]
        elif kind in ENDINGS:
            record.ending = StopRequest(event["time"], ENDINGS[kind])
    times = [event["time"] for event in given if event["event"] == "submit"]
    record.submitted = times[0] if times else None
    for event in given:
        if event["stage"] in record.stages:
            NOTES[event["event"]](record.stages[event["stage"]], event)


def note_intent(record: RunRecord, event: Mapping[str, Any]) -> None:
    """Keep what a submission was about to do until it is known what became of it."""
    stage = record.stages.get(event["stage"])
    if stage is None:
        return
    if event["event"] == "intent":
        stage.unanswered[event["attempt"]] = event["indices"]
    else:
        stage.unanswered.pop(event["attempt"], None)


def note_submission(stage: StageRecord, event: Mapping[str, Any]) -> None:
    """Give each task of a submission its job; one id may stand for all of them."""
    indices, ids = event["indices"], event["job_ids"]
    if len(ids) != len(indices):
        ids = ids[:1] * len(indices)
    stage.recovery_jobs = tuple(event.get("recovery_jobs", ())) or stage.recovery_jobs
    for index, job_id in zip(indices, ids, strict=True):
        stage.jobs[index] = TaskJob(job_id, event["attempt"], event["time"], event["scheduler"])


def note_start(stage: StageRecord, event: Mapping[str, Any]) -> None:
    """Move a task on to the attempt that its job has begun."""
    stage.started.add(event["attempt"])
    stage.began_from = event.get("step") or stage.began_from
    job = stage.jobs.get(event["index"])
    if job is not None:
        stage.jobs[event["index"]] = replace(job, attempt=event["attempt"])


def note_exit(stage: StageRecord, event: Mapping[str, Any]) -> None:
    """Move a task on to the attempt in which it was refused before anything was started."""
    job = stage.jobs.get(event["index"])
    if (
        job is not None
        and event["attempt"] > job.attempt
        and event.get("action") != RetryAction.WAIT
    ):
        note_start(stage, event)


NOTES: dict[str, Callable[[StageRecord, Mapping[str, Any]], None]] = {
    "submit": note_submission,
    "start": note_start,
    "exit": note_exit,
}
"""What events say of a stage."""


def worth_parsing(lines: Iterable[bytes], record: RunRecord) -> Iterator[bytes]:
    """The lines without the long ones that tell how tasks of finished stages ended."""
    stages = record.stages.values()
    unfinished = [
        f'"stage": "{stage.stage}"'.encode() for stage in stages if len(stage.done) < stage.total
    ]
    for line in lines:
        if EXIT_MARK not in line or any(mark in line for mark in unfinished):
            yield line


def read_exits(run: RunDir, stage: StageRecord) -> None:
    """Read the exit record of each unfinished task's last attempt."""
    attempts: dict[int, list[int]] = {}
    for index, job in stage.jobs.items():
        if index not in stage.done:
            attempts.setdefault(job.attempt, []).append(index)
    for attempt, indices in attempts.items():
        try:
            present = set(os.listdir(run.attempt(stage.stage, attempt)))
        except FileNotFoundError:
            continue
        for index in indices:
            path = run.exit_record(stage.stage, attempt, index)
            if path.name in present and (found := read_small(path)):
                stage.exits[index] = found


def exit_records(record: RunRecord) -> list[tuple[str, int, dict[str, Any]]]:
    """Stage, task index and exit record of each unfinished task that left one, stages in order."""
    return [
        (name, index, stage.exits[index])
        for name, stage in record.stages.items()
        for index in sorted(stage.exits)
        if index not in stage.done
    ]
