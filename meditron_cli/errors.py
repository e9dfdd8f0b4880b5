"""The error tree: what a person reads, and the exit code.

MeditronError        1  something of ours went wrong
  ConfigError        2  usage, or a configuration that cannot be
  SchedulerError     3  Slurm refused, or did not answer
  RunFailed          4  the run ended without reaching its target
  Unhealthy          5  a node is not fit for work
"""

from __future__ import annotations


class MeditronError(Exception):
    """An error a person reads: one sentence saying where, what and what instead; then a hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(MeditronError):
    """Usage, or a configuration that cannot be; ``message`` may hold several lines, one error
    each.
    """

    exit_code = 2


class SchedulerError(MeditronError):
    """Slurm refused, or did not answer."""

    exit_code = 3


class RunFailed(MeditronError):
    """The run ended without reaching its target."""

    exit_code = 4


class Unhealthy(MeditronError):
    """A node is not fit for work."""

    exit_code = 5
