"""Refuse to change the run of another user, whose jobs squeue hides and scancel does not cancel,
and to cancel jobs by a copy of their run.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Collection
from pathlib import Path

from jobs.contract.attempt_history import RunHistory
from jobs.contract.events import SubmitEvent
from jobs.contract.rundir import RunDir
from meditron_cli.errors import ConfigError
from meditron_cli.runs import store


def require_owner(run: RunDir, action: str, hint: str = "") -> None:
    """Refuse an action on a run that another user owns.

    Args:
        action: a verb for the message (``resume``, ``cancel``).

    Raises:
        ConfigError: naming the owner.
    """
    uid = owner_of(run)
    if uid is not None and uid != os.getuid():
        raise ConfigError(
            f"run {run.name} belongs to {user_name(uid)}; no other user can {action} it",
            hint=hint or f"`{store.command(run, 'status')}` shows its state",
        )


def require_original(run: RunDir, history: RunHistory, job_ids: Collection[str]) -> None:
    """Refuse to cancel jobs that work on another directory, of which this run is a copy. A run that
    was moved keeps its jobs.

    Raises:
        ConfigError: naming that directory.
    """
    open_ids = set(job_ids)
    for event in history.events:
        if not isinstance(event, SubmitEvent) or open_ids.isdisjoint(event.job_ids):
            continue
        original = RunDir(Path(event.run_dir or run.root))
        try:
            is_copy = not original.record.samefile(run.record)
        except (FileNotFoundError, NotADirectoryError):  # it was moved to here, or removed
            continue
        except OSError as error:
            jobs = shlex.join(sorted(open_ids))
            raise ConfigError(
                f"the jobs work on {original.root}, which cannot be read ({error.strerror}): "
                f"{run.root} may be a copy of it",
                hint=f"`scancel {jobs}` if the run was moved to here",
            ) from error
        if is_copy:
            raise ConfigError(
                f"{run.root} is a copy: its jobs work on {original.root}",
                hint=f"`{original.command('cancel')}` cancels them",
            )


def is_mine(run: RunDir) -> bool:
    """Return whether this user owns a run."""
    return owner_of(run) == os.getuid()


def owner_of(run: RunDir) -> int | None:
    """Return the id of the user who created a run, or None for a run without an event log."""
    try:
        return run.events.stat().st_uid
    except OSError:
        return None


def user_name(uid: int) -> str:
    """Return a user's login name, or the uid where this machine has no name for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
