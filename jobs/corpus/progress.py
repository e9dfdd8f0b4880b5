"""The progress of a task of the corpus, and its stop requests."""

from __future__ import annotations

import time

from jobs.contract.errors import Stopped
from jobs.runtime.context import Context


class Progress:
    """Reports progress about once a second."""

    def __init__(self, context: Context, total: int, unit: str) -> None:
        self._context = context
        self._total = total
        self._unit = unit
        self._due = 0.0
        self.done = 0
        """Units of the parts that are finished."""
        self.documents = 0
        """Documents of the parts that are finished."""

    def at(self, more: int, documents: int = 0) -> None:
        """Report units and documents beyond the finished parts.

        Raises:
            Stopped: a stop was requested.
        """
        if self._context.stop:
            raise Stopped("stop requested; the next attempt continues behind the finished parts")
        if (now := time.monotonic()) >= self._due:
            self._report(self.done + more, self.documents + documents)
            self._due = now + 1.0

    def require_run(self) -> None:
        """Refuse to go on in a run directory that was moved away or removed: it would reappear.

        Raises:
            FileNotFoundError: there is no such run directory.
        """
        self._context.run.stage(self._context.task.stage).stat()

    def finish_part(self, units: int, documents: int) -> None:
        """Count a finished part."""
        self.done += units
        self.documents += documents
        if self.done >= self._total:
            self._report(self.done, self.documents)

    def _report(self, done: int, documents: int) -> None:
        self._context.progress(done, self._total, self._unit, documents=documents)
