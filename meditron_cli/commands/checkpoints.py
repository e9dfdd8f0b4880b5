"""``meditron checkpoints``: list and verify the checkpoints of a run."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from jobs.checkpoints import leases, manifest, parts
from jobs.checkpoints.manifest import CheckpointRecord
from jobs.contract.files import FormatError
from meditron_cli import console
from meditron_cli.commands import options
from meditron_cli.errors import RunFailed
from meditron_cli.plan.figures import size
from meditron_cli.reporting.tables import moment
from meditron_cli.services import Services

UNTRUSTED = ("damaged", "unreadable")
HINTS = {
    "damaged": "training resumes from the newest valid one; a copy may replace a damaged one",
    "unreadable": "its content is not known; check it as a user who can read it, or once the "
    "storage responds",
}
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
"""Errors of folders that can be read all the same."""


@dataclass(frozen=True)
class CheckpointEntry:
    """A folder with the name of a checkpoint."""

    path: Path
    state: str
    """``valid``, ``damaged``, ``unfinished`` (being written, or cut short), ``quarantined`` or
    ``unreadable``."""
    problem: str
    """The damage; empty when none is known."""
    record: CheckpointRecord | None
    """None where it cannot be read."""
    saved: float | None
    """Seconds since 1970."""
    verified: float | None
    """When every byte was last verified, in seconds since 1970."""
    leases: tuple[leases.Lease, ...]

    @property
    def name(self) -> str:
        """Return its name among the run's checkpoints: ``iter_0000500``, ``kept/iter_0000500``."""
        is_kept = self.path.parent.name == manifest.KEPT
        return f"{manifest.KEPT}/{self.path.name}" if is_kept else self.path.name

    @property
    def step(self) -> int:
        return manifest.step_of(self.path)

    @property
    def bytes(self) -> int | None:
        """Return the size on record; None without a record."""
        return self.record.bytes if self.record else None

    @property
    def kind(self) -> str | None:
        """Return ``weights`` (alone) or ``training``; None without a record."""
        return self.record.kind if self.record else None

    @property
    def origin(self) -> str | None:
        """Return the weights that training began with; None without a record."""
        return str(self.record.origin.get("weights", "")) or None if self.record else None

    def to_json(self) -> dict[str, Any]:
        """Return the checkpoint as ``checkpoints --json`` prints it."""
        names = ("step", "state", "problem", "bytes", "kind", "origin")
        known = {key: getattr(self, key) for key in names}
        rows = [{**_fields(lease.holder), "expires": lease.expires} for lease in self.leases]
        times = {"saved": self.saved, "verified": self.verified}
        return {"name": self.name, **known, **times, "leases": rows}


@click.command("checkpoints", short_help="Show a run's checkpoints, and what is wrong with them.")
@options.run_argument
@options.model_option
@click.option("--deep", is_flag=True, help="Read every byte of the valid ones.")
@options.runs_dir_option
@options.json_option
@click.pass_obj
def command(
    services: Services,
    name: str,
    model: str | None,
    deep: bool,
    runs_dir: Path | None,
    as_json: bool,
) -> None:
    """Show the checkpoints of RUN, or of one of its finetuned models, newest first, with their
    state and leases.

    Without --deep, only manifests and file sizes are checked. With it every file is read and its
    digest compared; training keeps the newest checkpoint that passed. Exit code 4 when one is
    damaged: the next attempt quarantines it and resumes from the one before.
    """
    run = options.find_run(services, runs_dir, name)
    spec = options.finetuning_of(run, model)[1] if model else None
    folder = run.path(spec.checkpoint_dir if spec else "checkpoints")
    entries = list(list_checkpoints(folder, services.clock.now()))
    if deep:
        entries = verify_all(folder, entries)
    show(run.name, folder, entries, as_json)
    bad = [entry for entry in entries if entry.state in UNTRUSTED]
    if bad:
        raise RunFailed(
            "\n".join(f"{entry.path}: {entry.problem}" for entry in bad),
            hint="\n".join(HINTS[state] for state in dict.fromkeys(entry.state for entry in bad)),
        )


def list_checkpoints(folder: Path, now: float) -> Iterator[CheckpointEntry]:
    """Yield every checkpoint, quarantined ones included, newest first."""
    known = leases.read_leases(folder, now)
    both = (folder, manifest.kept(folder))
    found = [path for each in both for path in manifest.folders(each)]
    found += [
        path for each in both for path in each.glob("iter_*.bad-*") if manifest.is_folder(path)
    ]
    for path in sorted(found, key=lambda path: (-manifest.step_of(path), str(path))):
        state, problem = state_of(path)
        with_lease = tuple(lease for lease in known if lease.checkpoint == path.name)
        yield CheckpointEntry(
            path=path,
            state=state,
            problem=problem,
            record=known_record(path),
            saved=saved_at(path),
            verified=manifest.verified_at(path),
            leases=with_lease,
        )


def state_of(path: Path) -> tuple[str, str]:
    """Return a checkpoint's state and damage, from its manifest and file sizes."""
    if ".bad-" in path.name:
        return "quarantined", "" if manifest.was_finished(path) else "it was never finished"
    try:
        problem = manifest.problem(path)
    except OSError as error:
        return "unreadable", error.strerror or str(error)
    if not problem:
        return "valid", ""
    return "damaged" if manifest.was_finished(path) else "unfinished", problem


def known_record(path: Path) -> CheckpointRecord | None:
    """Return the record of a checkpoint; None where it has none that can be read."""
    try:
        return manifest.read(path)
    except (OSError, FormatError):
        return None


def saved_at(path: Path) -> float | None:
    """Return when a checkpoint's record was written; None without one."""
    with suppress(OSError):
        return (path / manifest.RECORD).stat().st_mtime
    return None


def verify_all(folder: Path, entries: Iterable[CheckpointEntry]) -> list[CheckpointEntry]:
    """Verify every byte of the valid checkpoints, with progress on stderr; leave out those that
    training prunes meanwhile.
    """
    entries, refusals = list(entries), Refusals()
    total = sum(entry.bytes or 0 for entry in entries if entry.state == "valid")
    with progress(total) as report:
        verified = [
            verify(folder, entry, report, refusals) if entry.state == "valid" else entry
            for entry in entries
        ]
    for reason in refusals.reasons:
        console.note(f"{folder} cannot be written ({reason}): the result is not recorded")
    return [entry for entry in verified if not is_gone(entry.path)]


class Refusals:
    """Reasons for which the system refused writes that reading can do without."""

    def __init__(self) -> None:
        self.reasons: dict[str, None] = {}

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep the reason of a refused write, and raise all other errors."""
        try:
            yield
        except OSError as error:
            if error.errno not in UNWRITABLE:
                raise
            self.reasons[error.strerror or str(error)] = None


def verify(
    folder: Path,
    entry: CheckpointEntry,
    report: Callable[[Path, int], None],
    refusals: Refusals,
) -> CheckpointEntry:
    """Verify every byte of a checkpoint, under a lease where one can be written, and record a
    success under the lease.
    """
    path, is_leased = entry.path, False
    reader = leases.Holder("meditron checkpoints", 0, 0, "", os.uname().nodename, os.getpid())
    try:
        with ExitStack() as held:
            with refusals.collect():
                held.enter_context(leases.leased(folder, path.name, reader))
                is_leased = True
            report(path, 0)
            files = manifest.manifest(path)
            wrong = parts.alteration(path, files, lambda count: report(path, count))
            if wrong:
                return replace(entry, state="damaged", problem=wrong)
            if is_leased:
                with refusals.collect():
                    manifest.note_verified(path)
    except OSError as error:
        reason = error.strerror or str(error)
        file = f"{Path(error.filename).name}: " if error.filename else ""
        return replace(entry, state="unreadable", problem=file + reason)
    return replace(entry, verified=time.time())


def is_gone(path: Path) -> bool:
    """Return whether a folder does not exist any more."""
    try:
        path.lstat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False


@contextmanager
def progress(total: int) -> Iterator[Callable[[Path, int], None]]:
    """Show progress: a bar on a terminal, else a line per checkpoint."""
    if not console.fancy(sys.stderr):
        yield lambda path, count: None if count else console.note(f"reading {path.name}")
        return
    with console.progress() as bars:
        bar = bars.add_task("reading", total=total, detail="")

        def report(path: Path, count: int) -> None:
            bars.update(bar, advance=count, detail=path.name)

        yield report


def show(run: str, folder: Path, entries: list[CheckpointEntry], as_json: bool) -> None:
    """Print the checkpoints."""
    writer = leases.read_writer(folder)
    if as_json:
        checkpoints = [entry.to_json() for entry in entries]
        held = None if writer is None else asdict(writer)
        console.json_out({"run": run, "writer": held, "checkpoints": checkpoints})
        return
    if not entries:
        console.note(f"no checkpoints in {folder}")
        return
    columns = (
        "checkpoint", "size", "saved", "kind", "origin", "state", "verified", "leased by",
    )  # fmt: skip
    console.table(columns, [row(entry) for entry in entries])
    for entry in entries:
        if entry.problem and entry.state not in UNTRUSTED:
            console.note(f"{entry.name}: {entry.problem}")
    if writer is not None:
        console.note(f"written by {writer}")


def row(entry: CheckpointEntry) -> tuple[object, ...]:
    """Return a row of the table."""
    return (
        entry.name,
        None if entry.bytes is None else size(entry.bytes),
        None if entry.saved is None else moment(entry.saved),
        entry.kind,
        entry.origin,
        entry.state,
        None if entry.verified is None else moment(entry.verified),
        ", ".join(str(lease.holder or "an unreadable lease") for lease in entry.leases) or None,
    )


def _fields(holder: leases.Holder | None) -> dict[str, Any]:
    return {} if holder is None else asdict(holder)
