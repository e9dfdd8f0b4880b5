"""``meditron logs``: the logs of a run's tasks, attempt by attempt."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from jobs.contract.attempt_history import RunHistory
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import STAGES
from jobs.contract.units import plural
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.reporting import tables
from meditron_cli.reporting.attempts import Attempt, attempts_of
from meditron_cli.reporting.follow import FINAL, NewExits, require_present
from meditron_cli.reporting.log_filter import LogFilter
from meditron_cli.runs import query, state, store
from meditron_cli.runs.record import RecordReader
from meditron_cli.services import Services

SUFFIXES = (".out", ".log", ".err")
FOLLOW_SECONDS = 1.0
STATE_SECONDS = 15.0
"""Interval between queries of the run's state while following."""
BLOCK_BYTES = 1 << 20

TASK_FILE = re.compile(r"[a-z]+-(\d{5})\.")
"""``ranks-00003.log``: the log of one task, whatever others ran in its attempt."""


@dataclass(frozen=True)
class LogSelection:
    """A selection of a run's logs."""

    records: RecordReader
    """Of the run, in full."""
    stages: Sequence[str]
    attempt: int | None = None
    task: int | None = None
    since: dict[str, int] = field(default_factory=dict)
    """The first attempt per stage; all where none is named."""

    @property
    def history(self) -> RunHistory:
        """Return the history of the run up to now."""
        return self.records.history_reader.current()

    @property
    def run(self) -> RunDir:
        """Return the run."""
        return self.records.run

    def attempts(self, stage: str) -> list[int]:
        """Return the selected attempts of a stage, oldest first."""
        return [
            number
            for number in self.run.attempts(stage)
            if number >= self.since.get(stage, 0) and self.attempt in (None, number)
        ]

    def files(self, stage: str, number: int) -> list[Path]:
        """Return the log files of an attempt, by name."""
        others = self._other_jobs(stage)
        return sorted(
            path
            for path in self.run.attempt(stage, number).iterdir()
            if path.suffix in SUFFIXES and self._may_be_of_task(path.name, others)
        )

    def _may_be_of_task(self, name: str, others: tuple[str, ...]) -> bool:
        if self.task is None:
            return True
        match = TASK_FILE.match(name)
        return int(match[1]) == self.task if match else not name.startswith(others)

    def _other_jobs(self, stage: str) -> tuple[str, ...]:
        """Return the prefixes of the log files of other tasks' jobs."""
        if self.task is None:
            return ()
        tasks: dict[str, set[int]] = {}
        for event in self.history.submits(stage):
            if len(event.job_ids) == len(event.indices):
                for index, job in event.jobs():
                    tasks.setdefault(f"{job}_", set()).add(index)
        return tuple(job for job, indices in tasks.items() if self.task not in indices)


@click.command()
@options.run_argument
@options.runs_dir_option
@click.option(
    "--stage",
    type=click.Choice(STAGES),
    metavar="STAGE",
    help="Only this stage, such as curate or pretrain.",
)
@click.option(
    "--attempt", type=click.IntRange(min=1), help="Only this attempt, from 1; default: all."
)
@click.option("--task", type=click.IntRange(min=0), help="Only the task with this index, from 0.")
@click.option("--follow", is_flag=True, help="Print the newest jobs' logs until the run has ended.")
@click.option(
    "--all", "unfiltered", is_flag=True, help="Also print lines of submitit and library warnings."
)
@click.pass_obj
def command(
    services: Services,
    name: str,
    runs_dir: Path | None,
    stage: str | None,
    attempt: int | None,
    task: int | None,
    follow: bool,
    unfiltered: bool,
) -> None:
    """Print the logs of a run.

    Attempt by attempt: a line before each attempt gives its job, nodes, times and outcome, a
    line before each file its path inside the run directory. submitit's own lines and known
    warnings of libraries are hidden unless --all is given.
    """
    run = options.find_run(services, runs_dir, name)
    records = RecordReader(run, in_full=True)
    stages = [stage] if stage else list(STAGES)
    require_task(records, stages, task)
    if follow:
        since = newest_jobs(records.history_reader.current()) if attempt is None else {}
        selection = LogSelection(records, stages, attempt, task, since)
        follow_logs(services, Printer(selection, unfiltered))
        return
    printer = Printer(LogSelection(records, stages, attempt, task), unfiltered)
    printer.print_new()
    if printer.hidden:
        hidden = plural(printer.hidden, "line")
        console.note(f"{hidden} of submitit and library warnings hidden; --all shows them")
    if not printer.printed:
        raise ConfigError(
            f"run {run.name} has no logs of {stage or 'any stage'} yet",
            hint=f"`{store.command(run, 'status')}` shows what it waits for",
        )


def require_task(records: RecordReader, stages: Sequence[str], task: int | None) -> None:
    """Refuse the index of a task that was never submitted, unless nothing was.

    Raises:
        ConfigError: there is no such task.
    """
    history = records.history_reader.current()
    known = {index for stage in stages for index in history.tasks(stage)}
    if known and task is not None and task not in known:
        run = records.run
        of = f" of {stages[0]}" if len(stages) == 1 else ""
        raise ConfigError(
            f"run {run.name} has no task {task}{of}; the last is {max(known)}",
            hint=f"`{store.command(run, 'status')}` shows how many tasks a stage has",
        )


def newest_jobs(history: RunHistory) -> dict[str, int]:
    """Return the first attempt of the last submission, per stage."""
    return {stage: submits[-1].attempt for stage in STAGES if (submits := history.submits(stage))}


class Printer:
    """A printer of what log files gained since its last call."""

    def __init__(self, selection: LogSelection, unfiltered: bool = False) -> None:
        self.selection = selection
        self._filters: defaultdict[Path, LogFilter] | None = None
        if not unfiltered:
            self._filters = defaultdict(LogFilter)
        self.printed: dict[Path, int] = {}
        """Bytes printed of each file."""
        self._headed: set[tuple[str, int]] = set()
        self._last: Path | None = None

    @property
    def hidden(self) -> int:
        """Return the number of lines that were not printed."""
        return sum(log.dropped for log in (self._filters or {}).values())

    def print_new(self, growing: bool = False) -> None:
        """Print all new text, with a header before each change of file.

        While files are ``growing``, an incomplete last line is kept for the next call.
        """
        for stage in self.selection.stages:
            for number in self.selection.attempts(stage):
                for path in self.selection.files(stage, number):
                    text = ""
                    for text in self._shown(path, growing):
                        self._head(stage, number, path)
                        console.part(text)
                    if text and not text.endswith("\n"):
                        console.part("\n")

    def print_ends(self, ended: Sequence[Attempt]) -> None:
        """Print how attempts ended whose logs were printed while they ran."""
        for attempt in ended:
            if (attempt.stage, attempt.number) in self._headed:
                console.data(f"=== {tables.ending(attempt)} ===")
                self._last = None

    def _shown(self, path: Path, growing: bool) -> Iterator[str]:
        for text in self._new(path, growing):
            shown = text if self._filters is None else self._filters[path].keep(text)
            if shown:
                yield shown

    def _new(self, path: Path, growing: bool) -> Iterator[str]:
        with path.open("rb") as file:
            file.seek(self.printed.get(path, 0))
            while block := file.read(BLOCK_BYTES):
                end = block.rfind(b"\n") + 1
                if growing and not end:
                    return
                whole = block[:end] or block
                yield whole.decode(errors="replace")
                self.printed[path] = self.printed.get(path, 0) + len(whole)
                file.seek(self.printed[path])

    def _head(self, stage: str, number: int, path: Path) -> None:
        if (stage, number) not in self._headed:
            self._headed.add((stage, number))
            console.data(
                f"=== {heading(self.selection.history, stage, number, self.selection.task)} ==="
            )
        if self._last != path:
            self._last = path
            console.data(f"==> {path.relative_to(self.selection.run.root)} <==")


def heading(history: RunHistory, stage: str, number: int, task: int | None) -> str:
    """Return an attempt in one line; of several tasks with a count per outcome."""
    attempts = [
        attempt
        for attempt in attempts_of(history)
        if (attempt.stage, attempt.number) == (stage, number) and task in (None, attempt.index)
    ]
    if len(attempts) == 1:
        return tables.heading(attempts[0])
    if not attempts:
        return f"{stage} attempt {number}: not started"
    counts = Counter(attempt.outcome for attempt in attempts)
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    began = tables.moment(min(attempt.began for attempt in attempts))
    return f"{stage} attempt {number}: {plural(len(attempts), 'task')}, {began}: {outcomes}"


def follow_logs(services: Services, printer: Printer) -> None:
    """Print until the run has ended, with a query of its state every ``STATE_SECONDS``."""
    queried = 0.0
    records = printer.selection.records
    new_exits = NewExits(records.history_reader)
    while True:
        require_present(printer.selection.run)
        now, ended = services.clock.now(), False
        if now - queried >= STATE_SECONDS:
            ended = state.derive_view(*query.evidence_of(services, records)).state in FINAL
            queried = now
        exits = new_exits.read_new()
        printer.print_new(growing=not ended)
        printer.print_ends(exits)
        if ended or not console.has_reader():
            return
        services.clock.sleep(FOLLOW_SECONDS)
