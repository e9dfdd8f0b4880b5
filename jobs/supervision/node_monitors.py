"""Run a monitor on each node beside the ranks (``jobs.health.monitor``).

A monitor that does not start, or dies, never ends the ranks. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from jobs.contract import specs
from jobs.runtime.log import log
from jobs.supervision import preflight_step
from jobs.supervision.attempt_records import AttemptRef
from jobs.supervision.ranks import launcher, local_ranks

LEAVE_SECONDS = 5.0
"""For the monitors to end."""


def is_monitored(task: specs.TaskSpec) -> bool:
    """Return whether a task's nodes are monitored: short tasks on processors are not."""
    return task.training is not None or task.gpus_per_node > 0


@contextmanager
def running(
    attempt: AttemptRef, task: specs.TaskSpec, environ: Mapping[str, str]
) -> Iterator[None]:
    """Run a monitor on each node during the block.

    Args:
        environ: of this process, without the secrets of the ranks.
    """
    if not is_monitored(task):
        yield
        return
    names = [str(attempt.run.root), attempt.stage, str(attempt.index), str(attempt.number)]
    prefix = preflight_step.beside_ranks(task, f"monitor-{attempt.step_name}")
    command = [*prefix, sys.executable, "-m", "jobs.health.monitor", *names]
    try:
        process = subprocess.Popen(
            command,
            env={**environ, **launcher.code_environment(attempt.run, environ)},
            stdin=subprocess.DEVNULL,
            preexec_fn=local_ranks.tie_to_parent(),
        )
    except OSError as error:
        log(f"the nodes are not monitored: {error.strerror}")
        yield
        return
    try:
        yield
    finally:
        # A probe may be stuck in the kernel. Of what srun has started, Slurm ends what is left.
        for end in (process.terminate, *(() if prefix else (process.kill,))):
            end()
            with suppress(subprocess.TimeoutExpired):
                process.wait(LEAVE_SECONDS)
                break
