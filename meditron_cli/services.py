"""The outside world of a command: schedulers, the time, the environment. Click's ``obj``.

Everything is built at its first use; tests pass a ``Services`` of their own with fakes
in it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from meditron_cli.errors import ConfigError

if TYPE_CHECKING:
    from meditron_cli.scheduler.base import Scheduler


class Clock(Protocol):
    """A source of the time of day, with sleep."""

    def now(self) -> float:
        """Return seconds since 1970."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        ...


class SystemClock:
    """This machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def make_scheduler(kind: str) -> Scheduler:
    """Return the scheduler of a profile's kind.

    Raises:
        ConfigError: no such kind.
    """
    if kind == "slurm":
        from meditron_cli.scheduler.slurm import SlurmScheduler

        return SlurmScheduler()
    if kind == "local":
        from meditron_cli.scheduler.local import LocalScheduler

        return LocalScheduler()
    raise ConfigError(f"no scheduler is called {kind!r}; there are slurm and local")


@dataclass
class Services:
    """The services of commands; ``scheduler(kind)`` makes each scheduler once."""

    make: Callable[[str], Scheduler] = make_scheduler
    clock: Clock = field(default_factory=SystemClock)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    _made: dict[str, Scheduler] = field(default_factory=dict)

    def scheduler(self, kind: str) -> Scheduler:
        """Return the scheduler of a kind, ``slurm`` or ``local``."""
        if kind not in self._made:
            self._made[kind] = self.make(kind)
        return self._made[kind]
