"""Follow a run to its end: ``submit --wait``."""

from __future__ import annotations

import sys
from typing import Protocol

from jobs.contract.attempt_history import Attempt, HistoryReader
from jobs.contract.events import EventLog, ExitEvent
from jobs.contract.rundir import RunDir
from meditron_cli import console
from meditron_cli.reporting import tables, task_errors
from meditron_cli.runs import state
from meditron_cli.runs.query import ask, evidence
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.runs.state import RunView, StageView
from meditron_cli.scheduler.base import JobInfo
from meditron_cli.services import Services

FINAL = ("succeeded", "failed", "stopped", "cancelled")
LOOK_SECONDS = 0.5
ASK_SECONDS = {"local": 0.5, "slurm": 15.0}
"""Between two questions to a scheduler; the run directory is read more often, for nothing."""
SETTLE_SECONDS = 5.0
"""A supervisor that was killed leaves no record, so the wait for it has an end."""


class ProgressDisplay(Protocol):
    """Where the state of a run is shown while it lasts."""

    def show(self, run: RunView) -> None:
        """Show the run as it is now."""
        ...

    def tell(self, sentence: str) -> None:
        """Say something once."""
        ...


class NewExits:
    """The attempts that end from now on."""

    def __init__(self, run: RunDir) -> None:
        self._log = EventLog(run, ("exit",), from_end=True)

    def read_new(self) -> list[Attempt]:
        """Return the attempts that have ended since the last call."""
        events = self._log.read_new()
        return [Attempt.of_exit(event.record) for event in events if isinstance(event, ExitEvent)]


class ProgressLines:
    """A line for each change of a stage, and for each tenth of it, for logs."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[str, int, int]] = {}

    def tell(self, sentence: str) -> None:
        console.note(sentence)

    def show(self, run: RunView) -> None:
        for name, stage in run.stages.items():
            done, total = stage.measure
            news = (stage.state, stage.done, int(10 * done / max(total, 1)))
            if self._said.get(name) != news:
                self._said[name] = news
                state = (
                    "" if stage.state == "failed" and stage.names_failures else f"{stage.state} "
                )
                console.note(f"{name}: {state}{describe(stage, run)}")


class ProgressBars:
    """A progress bar for each stage, for terminals."""

    def __init__(self) -> None:
        self._progress = console.progress()
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def tell(self, sentence: str) -> None:
        self._progress.console.print(sentence, markup=False, highlight=False)

    def show(self, run: RunView) -> None:
        for name, stage in run.stages.items():
            if name not in self._tasks:
                self._tasks[name] = int(self._progress.add_task(name, detail=""))
            done, total = stage.measure
            self._progress.update(
                self._tasks[name],  # type: ignore[arg-type]
                description=f"{name} {stage.state}",
                completed=done,
                total=total,
                detail=describe(stage, run),
            )


def describe(stage: StageView, run: RunView) -> str:
    """How far a stage is, in words."""
    loss = f", loss {run.loss:.3f}" if stage.target_step and run.loss is not None else ""
    return f"{stage.amount}{loss}"


def follow(services: Services, run: RunDir) -> str:
    """Show a run until it has ended; answers its last state.

    An interruption leaves the run going, and says so.
    """
    try:
        if console.fancy(sys.stderr):
            with ProgressBars() as bars:
                return until_end(services, run, bars)
        return until_end(services, run, ProgressLines())
    except KeyboardInterrupt:
        console.note(
            f"run {run.name} goes on; `meditron status {run.name}`, "
            f"`meditron logs {run.name} --follow`, `meditron cancel {run.name}`"
        )
        raise


def until_end(services: Services, run: RunDir, board: ProgressDisplay) -> str:
    """Look again and again, asking the scheduler now and then, until the run has ended."""
    infos: dict[str, JobInfo] = {}
    asked = 0.0
    news, reader = NewExits(run), RecordReader(run, in_full=True)
    while True:
        now = services.clock.now()
        record = reader.read()
        kinds = state.open_jobs(record, now)
        fresh = bool(kinds) and now - asked >= max(ASK_SECONDS[kind] for kind in kinds)
        if fresh:
            (infos,) = ask(services, [record], now)
            asked = now
            record = reader.read()
        run_view = state.fold(record, infos, now)
        tell_interruptions(news, board)
        board.show(run_view)
        if run_view.state in FINAL and (fresh or not state.open_jobs(record, now)):
            settle(services, run, record)
            return run_view.state
        services.clock.sleep(LOOK_SECONDS)


def tell_interruptions(news: NewExits, board: ProgressDisplay) -> None:
    """A line for each attempt that ended early since the last look."""
    for attempt in news.read_new():
        if attempt.interrupted:
            board.tell(tables.ending(attempt))


def settle(services: Services, run: RunDir, record: RunRecord) -> None:
    """Let supervisors write how their tasks ended, which they do after the done marker."""
    reader, deadline = HistoryReader(run), services.clock.now() + SETTLE_SECONDS
    while services.clock.now() < deadline:
        history = reader.current()
        pending = (
            history.task(stage.stage, index)
            for stage in record.stages.values()
            for index in stage.jobs
            if index in stage.done
        )
        if all(task.attempt in task.ended for task in pending):
            return
        services.clock.sleep(LOOK_SECONDS)


def why(services: Services, run: RunDir) -> tuple[str, str, int]:
    """Return the sentence and hint of the first unfinished task that ended, and its exit code
    (``jobs.contract.errors``); empty and 0 where there is none.
    """
    record, infos, now = evidence(services, [run])[0]
    errors = task_errors.of_run(run, record, infos, now)
    if not errors:
        return "", "", 0
    first = errors[0]
    return f"{first.stage} task {first.index}: {first.message}", first.hint, first.code
