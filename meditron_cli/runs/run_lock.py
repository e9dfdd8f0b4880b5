"""The lock of a run on the login node: each change of its jobs or its directory holds it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.contract.errors import ERRNO_HINTS, RESUME
from jobs.contract.rundir import RunDir
from jobs.slurm.submission import SubmitError
from jobs.supervision.recovery import resubmission
from meditron_cli.errors import ConfigError, SchedulerError

NO_LOCKS = "the file system has no locks (Lustre: mount with -o flock); use another"

HINTS = {
    **ERRNO_HINTS,
    errno.EACCES: "only its owner can change a run",
    errno.EPERM: "only its owner can change a run",
    errno.EOPNOTSUPP: NO_LOCKS,
    errno.ENOLCK: NO_LOCKS,
}
"""Hints about a run directory that cannot be written, by errno."""


@contextmanager
def exclusive(run: RunDir, action: str, denied_hint: str = "") -> Iterator[None]:
    """Hold the lock of a run, after a submission in progress is complete: a person's, or that of
    one of its jobs.

    The hints of errors within it, whose authors do not know which command runs, name the command
    to repeat: this one, in the place of ``RESUME``.

    Args:
        action: the command that changes the run: ``cancel --save``.
        denied_hint: the hint for a user who may not write to the run.

    Raises:
        ConfigError: the run cannot be written.
        SchedulerError: the other submission takes too long.
    """

    def completed(hint: str) -> str:
        return run.hint(hint.replace(RESUME, f"{{meditron {action}}}"))

    try:
        with resubmission.waiting_lock(run):
            yield
    except (SubmitError, SchedulerError) as error:
        raise SchedulerError(error.message, hint=completed(error.hint)) from error
    except OSError as error:
        is_denied = error.errno in (errno.EACCES, errno.EPERM)
        hint = denied_hint if is_denied and denied_hint else HINTS.get(error.errno or 0, "")
        raise ConfigError(
            f"run {run.name} cannot be written: {error.filename or run.root}: {error.strerror}",
            hint=completed(hint),
        ) from error
