"""``meditron logs``: what the tasks of a run said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from jobs import specs
from jobs.rundir import RunDir
from meditron_cli import console, observe
from meditron_cli.commands import options
from meditron_cli.errors import ConfigError
from meditron_cli.services import Services
from meditron_cli.watch import FINAL

SUFFIXES = (".out", ".log", ".err")
FOLLOW_SECONDS = 1.0
STATE_SECONDS = 15.0
"""Between two looks at the run's state while following."""
BLOCK_BYTES = 1 << 20


@click.command()
@options.run_argument
@options.runs_dir_option
@click.option("--stage", type=click.Choice(specs.STAGES), help="Only this stage.")
@click.option("--attempt", type=click.IntRange(min=1), help="Default: each stage's newest.")
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
@click.pass_obj
def command(
    services: Services,
    name: str,
    runs_dir: Path | None,
    stage: str | None,
    attempt: int | None,
    follow: bool,
) -> None:
    """Print the logs of a run.

    Each file is headed by its name inside the run directory.
    """
    run = options.find_run(services, runs_dir, name)
    printer = Printer(run)
    stages = [stage] if stage else list(specs.STAGES)
    if follow:
        follow_logs(services, run, printer, stages, attempt)
        return
    printer.print_new(stages, attempt)
    if not printer.seen:
        raise ConfigError(
            f"run {run.name} has no logs of {stage or 'any stage'} yet",
            hint=f"`meditron status {run.name}` says what it waits for",
        )


class Printer:
    """Prints what log files have gained since the last look."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self.seen: dict[Path, int] = {}
        """Bytes printed of each file."""
        self._last: Path | None = None

    def print_new(self, stages: list[str], attempt: int | None, growing: bool = False) -> None:
        """Print everything new, a header before each change of file.

        While files are ``growing``, a last line without its end is left for the next time.
        """
        for stage in stages:
            for path in log_files(self._run, stage, attempt):
                self._print(path, growing)

    def _print(self, path: Path, growing: bool) -> None:
        with path.open("rb") as file:
            file.seek(self.seen.get(path, 0))
            while block := file.read(BLOCK_BYTES):
                end = block.rfind(b"\n") + 1
                if growing and not end:
                    return
                if self._last != path:
                    console.data(f"==> {path.relative_to(self._run.root)} <==")
                    self._last = path
                whole = block[:end] or block
                console.data(whole.decode(errors="replace"))
                self.seen[path] = self.seen.get(path, 0) + len(whole)
                file.seek(self.seen[path])


def log_files(run: RunDir, stage: str, attempt: int | None) -> Iterator[Path]:
    """Log files of one attempt, by name; of the newest when none is named."""
    numbers = run.attempts(stage)
    if attempt is None and numbers:
        attempt = numbers[-1]
    if attempt in numbers:
        folder = run.attempt(stage, attempt)
        yield from sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


def follow_logs(
    services: Services, run: RunDir, printer: Printer, stages: list[str], attempt: int | None
) -> None:
    """Print until the run has ended, asking for its state now and then."""
    looked = 0.0
    while True:
        now = services.clock.now()
        if now - looked >= STATE_SECONDS:
            ended = observe.observe(services, [run])[0].state in FINAL
            looked = now
            if ended:
                printer.print_new(stages, attempt)
                return
        printer.print_new(stages, attempt, growing=True)
        services.clock.sleep(FOLLOW_SECONDS)
