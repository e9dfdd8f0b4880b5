"""Name the function that a batch step calls, instead of importing it. Standard library only.

submitit pickles a callable and calls it on the node. A callable that holds only a name keeps this
package free of what it starts, as console-script entry points do.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Payload:
    """A batch step by name; the module is imported on the node, when the payload is called."""

    target: str
    """``module:function``."""

    def __call__(self, *arguments: str) -> None:
        """Import the target and call it."""
        module, _, name = self.target.partition(":")
        getattr(importlib.import_module(module), name)(*arguments)


TASK = Payload("jobs.supervision.batch_step:run_task")
"""The supervisor of one task."""

RECOVERY = Payload("jobs.supervision.recovery.recovery_job:run_recovery")
"""The job that waits for the end of a stage's jobs."""
