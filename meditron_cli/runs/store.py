"""Make and find run directories on the login node."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import stat
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jobs.contract import notification, specs
from jobs.contract.files import (
    FORMAT,
    DamagedFile,
    FormatError,
    fsync_folder,
    fsync_tree,
    last_change,
    read_json,
    write_json,
)
from jobs.contract.rundir import RunDir
from meditron_cli.errors import ConfigError
from meditron_cli.runs import last_root
from meditron_cli.runs.request import Request, other_version, read_run_file, record

if TYPE_CHECKING:
    from meditron_cli.plan.model import Plan, StagePlan

VARIABLE = "MEDITRON_RUNS"
NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
PART = re.compile(rf"\.{NAME.pattern}\.[0-9a-f]{{32}}")
"""The hidden name of a run that is being made."""
FORMAT_LINE = f'\n "format": {FORMAT},\n'.encode()
"""A line of a file that ``write_json`` wrote, at the top level."""
STALE_SECONDS = 3600.0


class RunExists(ConfigError):
    """The run was made by another process first."""


def command(run: RunDir, *words: str) -> str:
    """Return a `meditron` command about a run, without ``--runs-dir`` where commands typed here
    find the run anyway.

    Args:
        run: named after the words.
        words: the command and its options.
    """
    return command_below(run.root.parent, *words, run.name)


def command_below(root: Path, *words: str) -> str:
    """Return a `meditron` command about a runs directory, quoted for a shell; like ``command``."""
    option = [] if root == existing_root(None, os.environ) else ["--runs-dir", str(root)]
    return shlex.join(["meditron", *words, *option])


def runs_root(option: Path | None, environ: Mapping[str, str], profile: Path | None) -> Path:
    """Return where runs are made: ``--runs-dir``, else MEDITRON_RUNS, the profile's, ``./runs``."""
    return (_chosen_root(option, environ) or profile or Path("runs")).expanduser().absolute()


def existing_root(option: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the runs directory: ``--runs-dir``, else MEDITRON_RUNS, else the profile's
    directory that the last submission from this folder used, else ``./runs``.
    """
    named = _chosen_root(option, environ) or last_root.remembered() or Path("runs")
    return named.expanduser().absolute()


def remember_root(root: Path, option: Path | None, environ: Mapping[str, str]) -> None:
    """Keep where this folder's runs are made, unless the caller names it each time."""
    if _chosen_root(option, environ) is None:
        last_root.remember(root)


def _chosen_root(option: Path | None, environ: Mapping[str, str]) -> Path | None:
    return option or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)


def names(root: Path) -> list[str]:
    """Return the names of the runs under a root, sorted; a missing root has none."""
    try:
        with os.scandir(root) as entries:
            return sorted(entry.name for entry in entries if NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise ConfigError(f"{root} is a file; runs need a folder", hint=HINT_ROOT) from error
    except PermissionError as error:
        raise ConfigError(f"{root} cannot be read: {error.strerror}", hint=HINT_ROOT) from error


HINT_ROOT = f"name another with --runs-dir or {VARIABLE}"


def runs(root: Path) -> list[RunDir]:
    """Return the runs under a root, by name: the folders with a record, and those that this user
    cannot read, which may be runs of others.
    """
    return [run for name in names(root) if may_be_run(run := RunDir(root / name))]


def may_be_run(run: RunDir) -> bool:
    """Return whether a folder has a record, or cannot be read."""
    try:
        run.record.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def require_format(run: RunDir) -> RunDir:
    """Return a run whose files this program can read, also where a file is missing or damaged.

    Raises:
        ConfigError: the run was made by another version.
    """
    try:
        # Parsing the records of 1,000 runs would take a tenth of the time of `status`.
        if FORMAT_LINE not in run.record.read_bytes():
            read_json(run.record)
    except (OSError, DamagedFile):
        return run
    except FormatError as error:
        raise other_version(run.record, error) from error
    return run


def find(root: Path, name: str, destructive: bool = False) -> RunDir:
    """Find the run of a name, or the only one whose name begins so.

    Args:
        root: the runs directory.
        name: a run's name or its first letters.
        destructive: for commands that end or delete a run. They accept a beginning only if it
            covers the name up to the digest, ``med-tiny`` of ``med-tiny-3f2a91c0``.

    Raises:
        ConfigError: no run, or several; the message names them.
    """
    known = [run.name for run in runs(root)]
    if name in known:
        return require_format(RunDir(root / name))
    starting = [run for run in known if run.startswith(name)]
    if len(starting) == 1 and destructive and len(name) < len(without_digest(starting[0])):
        raise ConfigError(
            f"{name!r} is too short for a run that would be ended or deleted",
            hint=f"give the whole name: {starting[0]}",
        )
    if len(starting) == 1:
        return require_format(RunDir(root / starting[0]))
    if starting:
        raise ConfigError(
            f"{name!r} begins the names of {len(starting)} runs: {', '.join(starting[:5])}",
            hint="give more of the name",
        )
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    instead = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"no run is called {name!r} in {root}{instead}",
        hint=f"`{command_below(root, 'status')}` lists the runs",
    )


def without_digest(name: str) -> str:
    """Return a run's name up to its digest: ``med-tiny`` for ``med-tiny-3f2a91c0-2``."""
    return re.sub(r"-[0-9a-f]{8}(-[0-9]+)?", "", name)


def latest(root: Path) -> RunDir:
    """Return the run whose events were written to last; one that cannot be read counts as oldest.

    Raises:
        ConfigError: there is none.
    """
    present = runs(root)
    if not present:
        raise ConfigError(f"there are no runs in {root}", hint=HINT_ROOT)
    return max(present, key=last_event)


def last_event(run: RunDir) -> int:
    """Return when a run's events were last written to, else when it was made, in nanoseconds; 0
    where it cannot be read.
    """
    return last_change(run.events) or last_change(run.record)


def newest_of(root: Path, identity: str) -> str | None:
    """Return the newest run of an identity (``identity``, ``identity-2``, …), or None."""
    mine = [number for name in names(root) if (number := _number(name, identity))]
    return numbered(identity, max(mine)) if mine else None


def runs_of(root: Path, prefix: str) -> list[RunDir]:
    """Return the runs whose name is a prefix, a digest and perhaps a number, newest first; those
    that cannot be read come last.
    """
    pattern = re.compile(re.escape(prefix) + r"-[0-9a-f]{8}(-[1-9][0-9]*)?")
    made = [run for run in runs(root) if pattern.fullmatch(run.name)]
    return sorted(made, key=lambda run: last_change(run.record), reverse=True)


def next_of(root: Path, identity: str) -> str:
    """Return the name of a new run of an identity."""
    mine = [number for name in names(root) if (number := _number(name, identity))]
    return numbered(identity, max(mine, default=0) + 1)


def numbered(identity: str, number: int) -> str:
    """Return ``identity`` for the first run, ``identity-2`` for the second."""
    return identity if number == 1 else f"{identity}-{number}"


def _number(name: str, identity: str) -> int:
    """Return the number of a name among an identity's runs, counted from 1; 0 for other names."""
    if name == identity:
        return 1
    match = re.fullmatch(re.escape(identity) + r"-([1-9][0-9]*)", name)
    return int(match[1]) if match else 0


def create(root: Path, name: str, request: Request, plan: Plan) -> RunDir:
    """Make a run directory with everything it holds before the first job.

    It is built under a hidden name and renamed, so that after a crash it is whole or absent.

    Raises:
        RunExists: another process made the run first.
        ConfigError: the root cannot be written.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not a valid name for a run", hint="lower-case letters, digits and -"
        )
    remove_stale(root)
    part = root / f".{name}.{uuid4().hex}"
    try:
        part.mkdir(parents=True)
        share(part, root)
        fill(RunDir(part), name, request, plan)
        _rename(part, root / name)
    except BaseException as error:
        remove_folder(part)
        if isinstance(error, OSError):
            raise ConfigError(
                f"runs directory {root} cannot be written: {reason(error)}", hint=HINT_ROOT
            ) from error
        raise
    return RunDir(root / name)


def remove_folder(folder: Path) -> None:
    """Remove a folder that could not be filled; a umask may have made it unreadable."""
    with suppress(OSError):
        folder.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def remove_stale(root: Path) -> None:
    """Remove what killed submits of this user left under hidden names.

    A folder counts as left behind when nothing was added to it for ``STALE_SECONDS``; making a run
    takes seconds.
    """
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if not PART.fullmatch(entry.name) or not entry.is_dir(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if status.st_uid == os.geteuid() and time.time() - status.st_mtime > STALE_SECONDS:
                shutil.rmtree(entry.path, ignore_errors=True)


def share(folder: Path, root: Path) -> None:
    """Give the group access to a run whose runs directory it may write to, whatever the umask, so
    that it can make STOP and SAVE.
    """
    own, parent = folder.stat(), root.stat()
    if parent.st_mode & stat.S_IWGRP and own.st_gid == parent.st_gid:
        bits = stat.S_IRWXG | parent.st_mode & stat.S_ISGID
        folder.chmod(stat.S_IMODE(own.st_mode) | bits)


def reason(error: OSError) -> str:
    """Return why a file could not be written."""
    if isinstance(error, shutil.Error):
        text = str(error.args[0][0][-1])
        return text.partition("] ")[2].partition(":")[0] or text
    return error.strerror or str(error)


def fill(run: RunDir, name: str, request: Request, plan: Plan) -> None:
    """Write all files of a new run."""
    from meditron_cli.runs import code_snapshot

    code_snapshot.copy_code(run)
    code = code_snapshot.describe_code(run.code)
    write_json(run.record, record(name, request, code))
    write_plan(run, plan)
    run.events.touch()
    fsync_tree(run.root)


def _rename(part: Path, final: Path) -> None:
    try:
        part.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        raise RunExists(
            f"run {final.name} was made by another submit just now",
            hint=f"`{command(RunDir(final), 'resume')}` continues it",
        ) from error
    fsync_folder(final.parent)


def write_plan(
    run: RunDir,
    plan: Plan,
    live: Collection[tuple[str, int]] = (),
    others: Mapping[str, Iterable[int]] = MappingProxyType({}),
) -> None:
    """Write the specs of the plan's tasks, then ``plan.json``, and who is notified.

    Stages of earlier submissions that are not in this plan stay in ``plan.json``.

    Args:
        live: stage and index of the tasks that are queued or running and keep their spec.
        others: indices by stage of tasks that are in the queue and not in this plan.
    """
    for stage in plan.stages:
        for task in stage.tasks:
            if (stage.stage, task.index) not in live:
                write_spec(run, stage.stage, task)
    earlier = read_plan(run)["stages"] if run.plan.exists() else {}
    mine = {stage.stage: stage_summary(stage, others.get(stage.stage, ())) for stage in plan.stages}
    both = {name: earlier[name] for name in earlier if name not in plan.replaced_stages} | mine
    write_json(
        run.plan,
        {
            "name": plan.name,
            "size": plan.size,
            "cluster": plan.site.cluster,
            "scheduler": plan.site.scheduler,
            "stages": both,
        },
    )
    notification.write(run, plan.notify)


def write_spec(run: RunDir, stage: str, task: specs.TaskSpec) -> None:
    """Write one task's spec, unless the same spec is there."""
    path, value = run.spec(stage, task.index), specs.to_json(task)
    try:
        if read_json(path) == value:
            return
    except (FileNotFoundError, FormatError):
        pass
    write_json(path, value)


def stage_summary(stage: StagePlan, others: Iterable[int] = ()) -> dict[str, Any]:
    """Return what ``status`` needs of a stage, without its specs.

    Args:
        others: indices of tasks that are in the queue and not in this plan.
    """
    summary: dict[str, Any] = {
        "tasks": sorted({*(task.index for task in stage.tasks), *others}),
        "after": list(stage.after),
        "max_parallel": stage.max_parallel,
        "resources": asdict(stage.resources),
    }
    if len(summary["tasks"]) == 1 and (training := stage.tasks[0].training):
        summary["target_step"] = training.train_steps
        summary["step_tokens"] = training.step_tokens(1)
        summary["target_tokens"] = training.tokens(training.train_steps)
        if later := training.starts[1:]:
            summary["later_phases"] = [
                [start.first_step, start.tokens, training.step_tokens(start.first_step + 1)]
                for start in later
            ]
    return summary


def read_plan(run: RunDir) -> dict[str, Any]:
    """Read ``plan.json``; raises like ``read_run_file``."""
    return read_run_file(run.plan, ("cluster", "stages"))
