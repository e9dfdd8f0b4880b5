"""The record of a run, read from its directory: stages, the jobs their tasks were given to, how
their last attempts ended. Reading is cheap; nothing is written.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jobs.contract import progress_record
from jobs.contract.attempt_history import HistoryReader, RunHistory, TaskHistory
from jobs.contract.events import CancelEvent, ExitEvent, Select, StartEvent
from jobs.contract.exit_record import ExitRecord
from jobs.contract.json_fields import from_fields
from jobs.contract.progress_record import ProgressRecord
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import STAGES
from meditron_cli.errors import ConfigError
from meditron_cli.runs import request, store

PROGRESS_FILES = 32
"""Progress files of a stage that are read at most."""

OF_ATTEMPTS = {kind.kind.encode() for kind in (StartEvent, ExitEvent)}


class TaskJob(NamedTuple):
    """The job that a task was last given to."""

    job_id: str
    attempt: int
    """The last one it started; before its first start the one it is to begin with."""
    time: float
    """When it was submitted, seconds since 1970."""
    scheduler: str


@dataclass(frozen=True)
class StopRequest:
    """A person's request to end everything submitted before."""

    time: float
    state: str
    """The state of its tasks then: ``cancelled``, or ``stopped`` where they save first."""


@dataclass
class StageRecord:
    """The records of one stage in the run directory."""

    stage: str
    indices: Collection[int]
    """Of its tasks: those of the last plan, and those of earlier ones that had a job then."""
    after: tuple[str, ...] = ()
    target_step: int | None = None
    """Of a single training; several have targets of their own."""
    target_tokens: int | None = None
    step_tokens: int | None = None
    """Of a step in the first phase of a training."""
    later_phases: tuple[tuple[int, ...], ...] = ()
    """Steps and tokens before each, and tokens of a step in it."""
    nodes: int = 1
    gpus_per_node: int = 0
    """Of one task."""
    done: set[int] = field(default_factory=set)
    jobs: dict[int, TaskJob] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)
    """Numbers of the attempts that have begun."""
    begun: set[int] = field(default_factory=set)
    """Tasks whose present job has begun an attempt."""
    began_from: int = 0
    """Step of the checkpoint that the last attempt resumed from."""
    recovery_jobs: tuple[str, ...] = ()
    """Jobs that wait for the end of this stage's, to continue what ended without a successor."""
    exits: dict[int, ExitRecord] = field(default_factory=dict)
    """Of each unfinished planned task's last attempt: the exit record, or its supervisor's
    observation where no process has closed it (``WAIT``).
    """
    unanswered: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Tasks by attempt whose submission began and has no job id: it was killed, or is running."""
    progress: ProgressRecord | None = None
    """Of a single training: its progress file."""
    task_progress: dict[int, ProgressRecord] = field(default_factory=dict)
    """Progress files of the current attempts of unfinished tasks; of stages without a target step,
    and at most of ``PROGRESS_FILES`` tasks."""

    @property
    def total(self) -> int:
        """Return the number of its tasks."""
        return len(self.indices)

    @property
    def attempts(self) -> int:
        """Return the number of attempts begun; the first one counts from its submission on."""
        return max(len(self.started), 1 if self.jobs else 0)


@dataclass
class RunRecord:
    """The records of a run in its directory."""

    name: str
    path: Path
    cluster: str = ""
    stages: dict[str, StageRecord] = field(default_factory=dict)
    submitted_at: float | None = None
    """Time of the first submission."""
    ending: StopRequest | None = None
    """The last cancellation or stop request."""
    stop_requested: bool = False
    """Whether the file STOP exists; not read where all stages are finished."""
    problem: str = ""
    """Why the directory cannot be read; empty when it can."""
    unreadable: str = ""
    """The system's reason for it, such as ``Permission denied``; empty for damaged files."""
    hint: str = ""
    """The hint about the problem."""
    history: RunHistory = field(default_factory=RunHistory)
    """Every event, where the run was read in full; else empty."""

    def require_readable(self) -> RunRecord:
        """Return the record itself, where the directory can be read.

        Raises:
            ConfigError: it cannot.
        """
        if self.unreadable:
            raise request.UnreadableRun(self.problem, self.unreadable)
        if self.problem:
            raise ConfigError(self.problem, hint=self.hint)
        return self


class RecordReader:
    """Reads the record of a run, repeatedly; of the events only the new ones."""

    def __init__(
        self, run: RunDir, in_full: bool = False, history_reader: HistoryReader | None = None
    ) -> None:
        """Create the reader of a run; nothing is read before the first call.

        Args:
            in_full: keep the whole history, also the attempts of finished stages. Without it only
                their number is known: their lines, most of a long log, are not parsed.
            history_reader: one that other code shares.
        """
        self.run = run
        self.history_reader = history_reader or HistoryReader(run)
        """Shares the lines that were read."""
        self._in_full = in_full

    def read(self) -> RunRecord:
        """Read the format of run.json, plan.json, new events, names of done markers, progress. The
        record of a directory that cannot be read has a ``problem``, and no stages.
        """
        try:
            with request.reading(self.run.root):
                return self._read()
        except ConfigError as error:
            unreadable = error.reason if isinstance(error, request.UnreadableRun) else ""
            return RunRecord(
                self.run.name,
                self.run.root,
                problem=error.message,
                unreadable=unreadable,
                hint=error.hint,
            )

    def _read(self) -> RunRecord:
        """Read a run; raises like ``store.read_plan``, and OSError."""
        run, record = self.run, RunRecord(self.run.name, self.run.root)
        plan = store.read_plan(store.require_format(run))
        record.cluster = plan["cluster"]
        try:
            record.stages = dict(planned_stages(run, plan["stages"]))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{run.plan}: the file is damaged", hint=request.HINT_DAMAGED
            ) from error
        if any(len(stage.done) < stage.total for stage in record.stages.values()):
            record.stop_requested = run.is_stop_requested()
        history = self.history_reader.current(self._selection(record.stages.values()))
        if self._in_full:
            record.history = history
        apply_history(record, history)
        for stage in record.stages.values():
            if stage.target_step is None:
                read_progress(run, stage)
            elif stage.attempts:
                stage.progress = progress_record.read(run, stage.stage, min(stage.indices))
        return record

    def _selection(self, stages: Iterable[StageRecord]) -> Select | None:
        """Return what chooses the lines: of a finished stage no exits, and a start per attempt."""
        if self._in_full:
            return None
        finished = {stage.stage.encode() for stage in stages if len(stage.done) == stage.total}

        def select(lines: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
            begun: set[tuple[bytes, bytes]] = set()
            for kind, line in lines:
                if kind in OF_ATTEMPTS:
                    stage = line.rpartition(b'"stage": "')[2].partition(b'"')[0]
                    if stage in finished:
                        attempt = line.partition(b",")[0]  # the first field: keys are sorted
                        if kind == b"exit" or (stage, attempt) in begun:
                            continue
                        begun.add((stage, attempt))
                yield line

        return select


def read(run: RunDir) -> RunRecord:
    """Read the record of a run once."""
    return RecordReader(run).read()


@dataclass(frozen=True)
class StageSummary:
    """A stage of ``plan.json``, as ``store.stage_summary`` wrote it."""

    tasks: tuple[int, ...]
    after: tuple[str, ...]
    resources: dict[str, Any]
    target_step: int | None = None
    target_tokens: int | None = None
    step_tokens: int | None = None
    later_phases: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class TaskResources:
    """The resources of a stage's task that ``status`` and ``report`` show."""

    nodes: int
    gpus_per_node: int


def planned_stages(
    run: RunDir, summaries: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, StageRecord]]:
    """Yield the record of each planned stage, in pipeline order, with its finished tasks."""
    for stage in (name for name in STAGES if name in summaries):
        summary = from_fields(StageSummary, summaries[stage])
        resources = from_fields(TaskResources, summary.resources)
        yield (
            stage,
            StageRecord(
                stage,
                indices=summary.tasks,
                after=summary.after,
                target_step=summary.target_step,
                target_tokens=summary.target_tokens,
                step_tokens=summary.step_tokens,
                later_phases=summary.later_phases,
                nodes=resources.nodes,
                gpus_per_node=resources.gpus_per_node,
                done=done_indices(run, stage, summary.tasks),
            ),
        )


def read_progress(run: RunDir, stage: StageRecord) -> None:
    """Read the progress files of unfinished tasks, if at most ``PROGRESS_FILES``; with more tasks,
    the number of finished ones is progress enough.
    """
    unfinished = [
        index for index in stage.jobs if index not in stage.done and index not in stage.exits
    ]
    if len(unfinished) > PROGRESS_FILES:
        return
    for index in unfinished:
        progress = progress_record.read(run, stage.stage, index)
        if progress is not None and progress.attempt == stage.jobs[index].attempt:
            stage.task_progress[index] = progress


def done_indices(run: RunDir, stage: str, planned: Collection[int]) -> set[int]:
    """Return the indices of the planned tasks that have a done marker."""
    if len(planned) == 1:  # most stages: one call instead of the five of a listing
        return {index for index in planned if run.done(stage, index).exists()}
    try:
        names = os.listdir(run.done_folder(stage))
    except FileNotFoundError:
        return set()
    done = [name[:-5] for name in names if name.endswith(".json")]
    return {int(index) for index in done if index.isdigit()}.intersection(planned)


def apply_history(record: RunRecord, history: RunHistory) -> None:
    """Fill in what the events record: submissions, starts, ends, requests to end the run."""
    record.submitted_at = history.submitted_at
    request = history.stop_request
    if request is not None:
        is_cancel = isinstance(request, CancelEvent)
        record.ending = StopRequest(request.time, "cancelled" if is_cancel else "stopped")
    for intent in history.unanswered:
        if intent.stage in record.stages:
            record.stages[intent.stage].unanswered[intent.attempt] = intent.indices
    for name, stage in record.stages.items():
        submits = history.submits(name)
        stage.recovery_jobs = next(
            (event.recovery_jobs for event in reversed(submits) if event.recovery_jobs), ()
        )
        for task in history.tasks(name).values():
            apply_task_history(stage, task)


def apply_task_history(stage: StageRecord, task: TaskHistory) -> None:
    """Fill in what the events record of one task."""
    for start in task.started.values():
        stage.began_from = start.step or stage.began_from
    stage.started.update(task.started)
    if task.has_begun:
        stage.begun.add(task.index)
    job, number = task.job, task.attempt
    if job is None:
        return
    if number > job.attempt:
        stage.started.add(number)
    stage.jobs[task.index] = TaskJob(job.job_id, number, job.time, job.scheduler)
    end = task.ended.get(number) or task.observed.get(number)
    if end is not None and task.index in stage.indices and task.index not in stage.done:
        stage.exits[task.index] = end


def exit_records(record: RunRecord) -> list[ExitRecord]:
    """Return the last exit record of each unfinished task that has one, stages in order."""
    return [
        stage.exits[index]
        for stage in record.stages.values()
        for index in sorted(stage.exits)
        if index not in stage.done
    ]
