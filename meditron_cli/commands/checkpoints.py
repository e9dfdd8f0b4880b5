"""``meditron checkpoints``: what a run has saved, and whether it can be trusted."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from jobs.checkpoints import leases, manifest
from jobs.contract.files import FormatError
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import RunFailed
from meditron_cli.plan.summary import size
from meditron_cli.reporting.tables import moment
from meditron_cli.services import Services

UNTRUSTED = ("damaged", "unreadable")


@dataclass(frozen=True)
class CheckpointEntry:
    """A checkpoint, or a folder that has the name of one."""

    path: Path
    state: str
    """``valid``, ``damaged``, ``unfinished`` (being written, or cut short), ``set aside`` or
    ``unreadable``."""
    problem: str
    """What is wrong; empty when nothing is known to be."""
    bytes: int | None
    saved: float | None
    """Seconds since 1970."""
    verified: float | None
    """When every byte was last read and found right."""
    leases: tuple[leases.Lease, ...]

    @property
    def step(self) -> int:
        return manifest.step_of(self.path)

    def to_json(self) -> dict[str, Any]:
        """The checkpoint as ``checkpoints --json`` prints it."""
        known = {key: getattr(self, key) for key in ("step", "state", "problem", "bytes")}
        rows = [{**_fields(lease.holder), "expires": lease.expires} for lease in self.leases]
        times = {"saved": self.saved, "verified": self.verified}
        return {"name": self.path.name, **known, **times, "leases": rows}


@click.command("checkpoints", short_help="Show a run's checkpoints, and what is wrong with them.")
@options.run_argument
@click.option("--deep", is_flag=True, help="Read every byte of those that look whole.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services, name: str, deep: bool, runs_dir: Path | None, as_json: bool
) -> None:
    """Show the checkpoints of RUN, newest first: which of them can be used, and who needs them.

    Without --deep, records and the sizes of files are looked at. With it every file is read and
    compared with what was written; training keeps the newest checkpoint that passed. Leaves with 4
    when one is damaged: the next start of training sets it aside and goes on from the one before.
    """
    run = options.find_run(services, runs_dir, name)
    folder = run.path("checkpoints")
    entries = list(look(folder, services.clock.now()))
    if deep:
        entries = verify_all(folder, entries)
    show(run.name, folder, entries, as_json)
    bad = [entry for entry in entries if entry.state in UNTRUSTED]
    if bad:
        raise RunFailed(
            "\n".join(f"{entry.path}: {entry.problem}" for entry in bad),
            hint="training goes on from the newest valid one; a copy may be put in the place of a "
            "damaged one",
        )


def look(folder: Path, now: float) -> Iterator[CheckpointEntry]:
    """Every folder that is a checkpoint or was one, newest first."""
    known = leases.read_leases(folder, now)
    aside = [path for path in folder.glob("iter_*.bad-*") if manifest.is_folder(path)]
    both = [*manifest.folders(folder), *aside]
    for path in sorted(both, key=lambda path: (-manifest.step_of(path), path.name)):
        state, problem = judge(path)
        with_lease = tuple(lease for lease in known if lease.checkpoint == path.name)
        yield CheckpointEntry(
            path=path,
            state=state,
            problem=problem,
            bytes=known_size(path),
            saved=saved_at(path),
            verified=manifest.verified_at(path),
            leases=with_lease,
        )


def judge(path: Path) -> tuple[str, str]:
    """State of a checkpoint, and what is wrong with it, as far as records and sizes tell."""
    if ".bad-" in path.name:
        return "set aside", "" if manifest.was_finished(path) else "it was never finished"
    try:
        problem = manifest.problem(path)
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    if not problem:
        return "valid", ""
    return "damaged" if manifest.was_finished(path) else "unfinished", problem


def known_size(path: Path) -> int | None:
    """Bytes by the record of a checkpoint; None without one."""
    try:
        return manifest.read(path).bytes
    except (OSError, FormatError):
        return None


def saved_at(path: Path) -> float | None:
    """When the record of a checkpoint was written; None without one."""
    with suppress(OSError):
        return (path / manifest.RECORD).stat().st_mtime
    return None


def verify_all(folder: Path, entries: Iterable[CheckpointEntry]) -> list[CheckpointEntry]:
    """Read every byte of the valid ones, with progress on stderr."""
    entries = list(entries)
    total = sum(entry.bytes or 0 for entry in entries if entry.state == "valid")
    with progress(total) as tell:
        return [
            verify(folder, entry, tell) if entry.state == "valid" else entry for entry in entries
        ]


def verify(
    folder: Path, entry: CheckpointEntry, tell: Callable[[Path, int], None]
) -> CheckpointEntry:
    """Read every byte of a checkpoint, which nobody deletes meanwhile, and leave word of it."""
    path = entry.path
    reader = leases.Holder("meditron checkpoints", 0, 0, "", os.uname().nodename, os.getpid())
    try:
        with leases.leased(folder, path.name, reader):
            tell(path, 0)
            files = manifest.manifest(path)
            wrong = manifest.altered(path, files, lambda count: tell(path, count))
            if wrong:
                return replace(entry, state="damaged", problem=wrong)
            manifest.note_verified(path)
    except OSError as error:
        return replace(entry, state="unreadable", problem=error.strerror or str(error))
    return replace(entry, verified=manifest.verified_at(path))


@contextmanager
def progress(total: int) -> Iterator[Callable[[Path, int], None]]:
    """Tell how much has been read: a bar on a terminal, a line a checkpoint elsewhere."""
    if not console.fancy(sys.stderr):
        yield lambda path, count: None if count else console.note(f"reading {path.name}")
        return
    with console.progress() as bars:
        bar = bars.add_task("reading", total=total, detail="")

        def tell(path: Path, count: int) -> None:
            bars.update(bar, advance=count, detail=path.name)

        yield tell


def show(run: str, folder: Path, entries: list[CheckpointEntry], as_json: bool) -> None:
    """Print what was found."""
    writer = leases.read_writer(folder)
    if as_json:
        found = [entry.to_json() for entry in entries]
        held = None if writer is None else asdict(writer)
        console.json_out({"run": run, "writer": held, "checkpoints": found})
        return
    if not entries:
        console.note(f"no checkpoints in {folder}")
        return
    columns = ("checkpoint", "size", "saved", "state", "verified", "leased by")
    console.table(columns, [row(entry) for entry in entries])
    for entry in entries:
        if entry.problem and entry.state not in UNTRUSTED:
            console.note(f"{entry.path.name}: {entry.problem}")
    if writer is not None:
        console.note(f"written by {writer}")


def row(entry: CheckpointEntry) -> tuple[object, ...]:
    """A line of the table."""
    return (
        entry.path.name,
        None if entry.bytes is None else size(entry.bytes),
        None if entry.saved is None else moment(entry.saved),
        entry.state,
        None if entry.verified is None else moment(entry.verified),
        ", ".join(str(lease.holder or "an unreadable lease") for lease in entry.leases) or None,
    )


def _fields(holder: leases.Holder | None) -> dict[str, Any]:
    return {} if holder is None else asdict(holder)
