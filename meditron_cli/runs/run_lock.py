"""The lock of a run on the login node: each change of its jobs or its directory holds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jobs.contract.rundir import RunDir
from jobs.slurm.submission import SubmitError
from jobs.supervision.recovery import resubmission
from meditron_cli.errors import ConfigError, SchedulerError


@contextmanager
def exclusive(run: RunDir, hint_of: Callable[[OSError], str] = lambda error: "") -> Iterator[None]:
    """Hold the lock of a run, after a submission in progress is complete: a person's, or that of
    one of its jobs.

    Args:
        hint_of: returns what to do about a run directory that cannot be written.

    Raises:
        ConfigError: the run cannot be written.
        SchedulerError: the other submission takes too long.
    """
    try:
        with resubmission.waiting_lock(run):
            yield
    except SubmitError as error:
        raise SchedulerError(error.message, hint=error.hint) from error
    except OSError as error:
        raise ConfigError(
            f"run {run.name} cannot be written: {error.filename or run.root}: {error.strerror}",
            hint=run.hint(hint_of(error)),
        ) from error
