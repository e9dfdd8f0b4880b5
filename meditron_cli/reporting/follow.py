"""Follow a run to its end: ``submit --wait``."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Protocol

from jobs.contract.attempt_history import HistoryReader
from jobs.contract.events import ExitEvent
from jobs.contract.rundir import RunDir
from meditron_cli import console
from meditron_cli.errors import ConfigError
from meditron_cli.reporting import tables
from meditron_cli.reporting.attempts import Attempt
from meditron_cli.reporting.reasons import task_errors
from meditron_cli.runs import open_jobs, state, store
from meditron_cli.runs.query import evidence_of, query_schedulers
from meditron_cli.runs.record import RecordReader, RunRecord
from meditron_cli.runs.views import RunView, StageView
from meditron_cli.scheduler.base import JobInfo
from meditron_cli.services import Services

FINAL = ("succeeded", "failed", "stopped", "cancelled")
POLL_SECONDS = 0.5
QUERY_SECONDS = {"local": 0.5, "slurm": 15.0}
"""Interval of scheduler queries; reading the run directory is cheap and more frequent."""
EXIT_RECORD_SECONDS = 5.0
"""A killed supervisor writes no exit record, so the wait for one is bounded."""


class ProgressDisplay(Protocol):
    """A display of a run's state until it ends."""

    def show(self, run: RunView) -> None:
        """Show the run as it is now."""
        ...

    def note(self, sentence: str) -> None:
        """Print a sentence once."""
        ...


class NewExits:
    """The attempts that end from now on."""

    def __init__(self, reader: HistoryReader) -> None:
        self._reader = reader
        self._known = len(reader.current().events)

    def read_new(self) -> list[Attempt]:
        """Return the attempts that have ended since the last call."""
        events = self._reader.current().events[self._known :]
        self._known += len(events)
        return [Attempt.of_exit(event.record) for event in events if isinstance(event, ExitEvent)]


class ProgressLines:
    """A display for logs: a line per change of a stage, and per tenth of it."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, int, int]] = {}

    def note(self, sentence: str) -> None:
        console.note(sentence)

    def show(self, run: RunView) -> None:
        for name, stage in run.stages.items():
            done, total = stage.measure
            progress = (stage.state, stage.done, int(10 * done / max(total, 1)))
            if self._shown.get(name) != progress:
                self._shown[name] = progress
                state = (
                    "" if stage.state == "failed" and stage.names_failures else f"{stage.state} "
                )
                console.note(f"{name}: {state}{describe(stage)}")


class ProgressBars:
    """A display for terminals: a progress bar per stage."""

    def __init__(self) -> None:
        self._progress = console.progress()
        self._tasks: dict[str, int] = {}

    def __enter__(self) -> ProgressBars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def note(self, sentence: str) -> None:
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
                detail=describe(stage),
            )


def describe(stage: StageView) -> str:
    """Return the progress of a stage in words."""
    loss = "" if stage.loss is None else f", loss {stage.loss:.3f}"
    return f"{stage.amount}{loss}"


def follow(services: Services, reader: RecordReader, stages: Collection[str] = ()) -> str:
    """Show a run until some of its stages have ended, and return their last state.

    Ctrl-C ends the display and not the run.

    Args:
        reader: of the run, in full.
        stages: their names; none for all stages of the run.
    """
    run = reader.run
    try:
        if console.fancy(sys.stderr):
            with ProgressBars() as bars:
                return until_end(services, reader, bars, stages)
        return until_end(services, reader, ProgressLines(), stages)
    except KeyboardInterrupt:
        console.note(
            f"run {run.name} continues; `{store.command(run, 'status')}`, "
            f"`{store.command(run, 'logs', '--follow')}`, `{store.command(run, 'cancel')}`"
        )
        raise


def until_end(
    services: Services,
    reader: RecordReader,
    display: ProgressDisplay,
    stages: Collection[str] = (),
) -> str:
    """Poll the run directory, and less often the scheduler, until the stages have ended."""
    infos: dict[str, JobInfo] = {}
    queried = 0.0
    exits = NewExits(reader.history_reader)
    while True:
        require_present(reader.run)
        now = services.clock.now()
        record = reader.read()
        kinds = open_jobs.open_jobs(record, now)
        fresh = bool(kinds) and now - queried >= max(QUERY_SECONDS[kind] for kind in kinds)
        if fresh:
            (infos,) = query_schedulers(services, [record], now)
            queried = now
            record = reader.read()
        run_view = state.derive_view(record, infos, now)
        print_interruptions(exits, display)
        display.show(run_view)
        ended = state_of(run_view, stages)
        if ended in FINAL and (fresh or not open_jobs.open_jobs(record, now)):
            wait_for_exit_records(services, reader.history_reader, record)
            return ended
        services.clock.sleep(POLL_SECONDS)


def state_of(run: RunView, stages: Collection[str]) -> str:
    """Return the state of some stages of a run; of the run without any."""
    if run.state == "unknown" or not stages:
        return run.state
    return state.first_of(view.state for name, view in run.stages.items() if name in stages)


def require_present(run: RunDir) -> None:
    """Refuse to follow a run whose directory was moved or removed meanwhile.

    Raises:
        ConfigError: naming the directory.
    """
    if not run.record.exists():
        raise ConfigError(
            f"{run.root}: the run directory was moved or removed",
            hint="`meditron status` with its new --runs-dir shows its state",
        )


def print_interruptions(exits: NewExits, display: ProgressDisplay) -> None:
    """Print a line per attempt that ended early since the last call."""
    for attempt in exits.read_new():
        if attempt.interrupted:
            display.note(tables.ending(attempt))


def wait_for_exit_records(services: Services, reader: HistoryReader, record: RunRecord) -> None:
    """Wait until supervisors have written exit records, which follow the done markers."""
    deadline = services.clock.now() + EXIT_RECORD_SECONDS
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
        services.clock.sleep(POLL_SECONDS)


def first_error(
    services: Services, reader: RecordReader, stages: Collection[str] = ()
) -> tuple[str, str, int]:
    """Return the sentence and hint of the first unfinished task that ended, and its exit code
    (``jobs.contract.errors``); empty and 0 where there is none.

    Args:
        stages: whose tasks count; none for all.
    """
    found = task_errors.of_run(reader.run, *evidence_of(services, reader))
    errors = [error for error in found if not stages or error.stage in stages]
    if not errors:
        return "", "", 0
    first = errors[0]
    return f"{first.stage} task {first.index}: {first.message}", first.hint, first.code
