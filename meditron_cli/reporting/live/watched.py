"""Pages of the live view, read again and again: of one run, and of all runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from jobs.contract import specs
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import TRAINING_STAGES, FinetuneSpec
from meditron_cli.errors import ConfigError
from meditron_cli.reporting.attempts import Attempt, attempts_of
from meditron_cli.reporting.follow import FINAL, require_present
from meditron_cli.reporting.health.alarms import newest
from meditron_cli.reporting.live.page import NodeReading, RunPage, RunRow, RunsPage
from meditron_cli.reporting.live.readers import (
    CurveReader,
    Due,
    LogReader,
    ReportReader,
    modified,
)
from meditron_cli.reporting.live.scheduler_poll import SchedulerPoll
from meditron_cli.reporting.reasons import task_errors, waiting
from meditron_cli.reporting.run_times import Measurer, RunTimes
from meditron_cli.reporting.speed import Speed, seconds_left
from meditron_cli.runs import open_jobs, request, state, store
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.runs.views import RunView, StageView
from meditron_cli.scheduler.base import JobInfo
from meditron_cli.services import Services

REPORT_SECONDS = 15.0
"""Between two reads of monitors' reports, which are written so often."""
TIMES_SECONDS = 20.0
"""Between two sums of the whole run's times, where no event is new."""
SHARE = 100
"""Times what the last sum took until the next one, at least: a run may have 10,000 attempts."""
OPEN = ("running", "unknown", "succeeded")
BEGUN = 0.02
"""Share of a stage from which its end is estimated."""


class WatchedRun:
    """One run."""

    def __init__(self, services: Services, run: RunDir) -> None:
        self.poll = SchedulerPoll(services)
        self._run = run
        self._records = RecordReader(run, in_full=True)
        self._measurer = Measurer(run)
        self._curves: dict[tuple[str, int], CurveReader] = {}
        self._names: dict[tuple[str, int], str] = {}
        self._reports = ReportReader(run)
        self._nodes: list[NodeReading] = []
        self._nodes_due = Due()
        self._log = LogReader(run)
        self._times: RunTimes | None = None
        self._errors: list[task_errors.TaskFailure] = []
        self._measured: tuple[object, ...] = ()
        self._times_due = Due()
        self._page: RunPage | None = None

    def read(self, now: float) -> RunPage:
        """Return the run as it is now; as it was before, with the reason, while it cannot be read.

        Raises:
            ConfigError: it was removed, is damaged, or could not be read before either.
        """
        try:
            with request.reading(self._run.root):
                self._page = self._read(now)
        except request.UnreadableRun as error:
            if self._page is None:
                raise
            return replace(self._page, problem=error.message)
        except ConfigError:
            require_present(self._run)
            raise
        return self._page

    def _read(self, now: float) -> RunPage:
        record, answered = self._records.read().require_readable(), self.poll.asked.at
        (infos,) = self.poll.answers([record], now)
        if self.poll.asked.at != answered:
            # A job that ended before the new answer has its exit record meanwhile.
            record = self._records.read().require_readable()
        view = state.derive_view(record, infos, now)
        attempts = attempts_of(record.history)
        opened = open_attempts(attempts, view)
        running = [item for item, state in opened.items() if state != "succeeded"]
        self._measure(record, infos, view, now)
        if self._nodes_due.is_reached(now):
            self._nodes = self._reports.read(running)
            self._nodes_due.set(now, REPORT_SECONDS)
        task = shown_training(record, view)
        curve = self._curve(task)
        progress = record.stages[task[0]].progress if task else None
        spoken = [*attempts[-1:], *running][-1:]
        return RunPage(
            now=now,
            view=view,
            submitted_at=record.submitted_at,
            etas=etas(record, view, attempts, curve.speed if curve else None, now),
            training=self._name(*task) if task else "",
            curve=curve.curve if curve else None,
            speed=curve.speed if curve else None,
            tokens_per_s=progress.tokens_per_s if progress else None,
            goodput=self._times.goodput if self._times else None,
            attempts=attempts,
            open_attempts={
                (item.stage, item.index, item.number): state for item, state in opened.items()
            },
            last_steps=self._times.last_steps if self._times else {},
            nodes=self._nodes if running else [],
            alarms=newest(record.history.alarms),
            log=self._log.read(spoken[0], now) if spoken else None,
            errors=list(task_errors.sentences(self._run, view, self._errors)),
            waiting=list(waiting.sentences(self._run, record, view, infos)),
            asked=self.poll.asked,
        )

    def _name(self, stage: str, index: int) -> str:
        """Return the name of a training: its stage, and the model of a finetuning."""
        if (stage, index) not in self._names:
            task = specs.read_task(self._run, stage, index)
            model = f" {task.spec.name}" if task and isinstance(task.spec, FinetuneSpec) else ""
            self._names[stage, index] = stage + model
        return self._names[stage, index]

    def _curve(self, task: tuple[str, int] | None) -> CurveReader | None:
        if task is None:
            return None
        reader = self._curves.setdefault(task, CurveReader())
        reader.add(self._measurer.lines(*task))
        return reader

    def _measure(
        self, record: RunRecord, infos: Mapping[str, JobInfo], view: RunView, now: float
    ) -> None:
        """Sum up times and errors after new events, else now and then."""
        states = [(name, *stage.task_states.items()) for name, stage in view.stages.items()]
        about = (len(record.history.events), states)
        early = TIMES_SECONDS if about != self._measured else 0.0
        if not self._times_due.is_reached(now, early):
            return
        began = time.process_time()
        self._times = self._measurer.measure(record, view, now)
        self._errors = task_errors.of_run(self._run, record, infos, now)
        self._measured = about
        seconds = SHARE * (time.process_time() - began)
        self._times_due.set(now, TIMES_SECONDS + seconds)


def open_attempts(attempts: Iterable[Attempt], view: RunView) -> dict[Attempt, str]:
    """Return the newest attempt of each task where it has no end, and the state of the task.
    While Slurm does not answer it is unknown, and monitors and logs may report more; of a task that
    has succeeded the end is about to be recorded.
    """
    newest = {(attempt.stage, attempt.index): attempt for attempt in attempts}
    return {
        attempt: state
        for (name, index), attempt in newest.items()
        if attempt.ended is None
        and name in view.stages
        and (state := view.stages[name].task_states.get(index, "")) in OPEN
    }


def shown_training(record: RunRecord, view: RunView) -> tuple[str, int] | None:
    """Return the stage and index of the training to show: one that runs, else the last that has
    begun; None before the first.
    """
    begun = [
        (name, index)
        for name in TRAINING_STAGES
        if name in record.stages
        for index in sorted(record.stages[name].jobs)
        if record.stages[name].started
    ]
    running = [task for task in begun if view.stages[task[0]].task_states.get(task[1]) == "running"]
    return next(iter(running or begun[-1:]), None)


def etas(
    record: RunRecord,
    view: RunView,
    attempts: tuple[Attempt, ...],
    speed: Speed | None,
    now: float,
) -> dict[str, float]:
    """Return the seconds until running stages end: a training by the speed of its newest period,
    else of its last step; other stages at their pace since they began.
    """
    began: dict[str, float] = {}
    for attempt in attempts:
        began[attempt.stage] = min(attempt.began, began.get(attempt.stage, attempt.began))
    found = {
        name: left
        for name, stage in view.stages.items()
        if name in began and (left := at_pace(stage, now - began[name])) is not None
    }
    for name, stage in view.stages.items():
        if stage.target_step is None:
            continue
        found.pop(name, None)
        left = seconds_left(record, view, speed, now)
        if stage.state == "running" and left is not None:
            found[name] = left
    return found


def at_pace(stage: StageView, elapsed: float) -> float | None:
    """Return the seconds until a stage ends at its pace so far; None where that is not known."""
    done, total = stage.measure
    if stage.state != "running" or done < BEGUN * total or done >= total:
        return None
    return elapsed * (total - done) / done


class WatchedRuns:
    """All runs under a root."""

    def __init__(self, services: Services, root: Path) -> None:
        self.poll = SchedulerPoll(services)
        self._root = root
        self._readers: dict[str, RecordReader] = {}
        self._settled: dict[str, tuple[object, RunView]] = {}
        """Runs that have ended, whose files are read again only after a new event."""

    def read(self, now: float) -> RunsPage:
        """Return all runs as they are now.

        Raises:
            ConfigError: the root cannot be read.
        """
        runs = {run.name: run for run in store.runs(self._root)}
        changed = {name: (modified(run.events), modified(run.plan)) for name, run in runs.items()}
        views = {
            name: view for name, (mark, view) in self._settled.items() if changed.get(name) == mark
        }
        self._readers = {
            name: self._readers.get(name) or RecordReader(run)
            for name, run in runs.items()
            if name not in views
        }
        records = [reader.read() for reader in self._readers.values()]
        live = [record for record in records if open_jobs.open_jobs(record, now)]
        answered = self.poll.asked.at
        infos = dict(
            zip((record.name for record in live), self.poll.answers(live, now), strict=True)
        )
        if self.poll.asked.at != answered:
            records = [reader.read() for reader in self._readers.values()]
        for record in records:
            view = state.derive_view(record, infos.get(record.name, {}), now)
            views[record.name] = view
            if view.state in FINAL and record.name not in infos:
                self._settled[record.name] = changed[record.name], view
        rows = [RunRow(view, changed[name][0] / 1e9) for name, view in views.items()]
        return RunsPage(now, str(self._root), rows, self.poll.asked)
