"""The error tree: the message for people, and the exit code.

MeditronError        1  an error of meditron itself
  ConfigError        2  usage, or a configuration that cannot be
  SchedulerError     3  Slurm refused, or did not answer
  RunFailed          4  the run ended without reaching its target
  Unhealthy          5  a node is unhealthy
"""

from __future__ import annotations


class MeditronError(Exception):
    """An error for people: one sentence with location, cause and remedy; then a hint."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(MeditronError):
    """Wrong usage or an invalid configuration; ``message`` may hold one error per line."""

    exit_code = 2


class SchedulerError(MeditronError):
    """A refusal of Slurm, or no answer."""

    exit_code = 3


class RunFailed(MeditronError):
    """The end of a run that did not reach its target."""

    exit_code = 4


class Unhealthy(MeditronError):
    """A node that failed its health check."""

    exit_code = 5
