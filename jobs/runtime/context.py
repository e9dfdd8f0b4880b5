"""A running rank's identity, stop requests and progress. Standard library only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.contract import done_markers, rundir, specs
from jobs.contract.files import FORMAT, make_folder
from jobs.runtime import heartbeat

OF_SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
OF_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Variables of a rank, the number of ranks, and the rank on its node."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopFlag:
    """A flag set by SIGTERM, SIGINT or SIGUSR2; handlers only record the signal, the loop acts."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def install(self) -> StopFlag:
        """Replace the handlers of the signals; return the flag."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._record)
        return self

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)

    def __bool__(self) -> bool:
        return bool(self.received)


@dataclass(frozen=True)
class Context:
    """One rank of one task of one attempt."""

    run: rundir.RunDir
    task: specs.TaskSpec
    attempt: int
    rank: int
    world_size: int
    local_rank: int
    stop: StopFlag = field(default_factory=StopFlag)
    heart: heartbeat.HeartbeatWriter = field(default_factory=heartbeat.HeartbeatWriter)
    started: float = field(default_factory=time.time)
    logged: set[str] = field(default_factory=set)
    """Errors in writing progress, each logged once."""

    def path(self, name: str) -> Path:
        """Return a path of a spec, which is relative to the run directory or absolute."""
        return self.run.path(name)

    @property
    def scratch(self) -> Path:
        """Return the task's private folder inside the run, for temporary files on the same file
        system.
        """
        return self.run.stage(self.task.stage) / "tmp" / f"{self.task.index:05d}"

    def progress(self, done: float, total: float, unit: str, **more: Any) -> None:
        """Overwrite this task's progress file. Call it on rank 0, at most about once a second.

        It is also a heartbeat, unless the caller passes a ``phase`` and so sends heartbeats itself.
        """
        if "phase" not in more:
            self.heart.beat(heartbeat.Phase.STEP if done < total else heartbeat.Phase.LEAVING)
        try:
            write_progress(self, done, total, unit, more)
        except OSError as error:  # a rank must not fail for a file that may be lost
            if str(error) not in self.logged:
                self.logged.add(str(error))
                print(f"{self.task.stage}: no progress file: {error}", file=sys.stderr)

    def finish(
        self,
        inputs: list[dict[str, Any]],
        outputs: list[dict[str, Any]],
        summary: dict[str, Any],
    ) -> None:
        """Write the done marker on rank 0, as the last action of a task."""
        done_markers.write_done(
            self.run,
            self.task.stage,
            self.task.index,
            spec_digest=specs.digest(self.task.spec),
            inputs=inputs,
            outputs=outputs,
            summary=summary,
            seconds=time.time() - self.started,
        )


def write_progress(
    context: Context, done: float, total: float, unit: str, more: Mapping[str, Any]
) -> None:
    """Replace the progress file without fsync: it may be lost, it may not be torn."""
    import json

    path = context.run.progress(context.task.stage, context.task.index)
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    value = {
        "format": FORMAT,
        "time": time.time(),
        "started": context.started,
        "attempt": context.attempt,
        "done": done,
        "total": total,
        "unit": unit,
        **more,
    }
    part.write_text(json.dumps(value))
    part.replace(path)


def context_from(run_dir: Path, stage: str, index: int, environ: Mapping[str, str]) -> Context:
    """Return the rank's context, from its spec and the environment of srun or the supervisor.

    Under srun SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID: RANK and its companions may be those of
    a surrounding program or of a container's image there. Otherwise RANK, WORLD_SIZE, LOCAL_RANK,
    else a single rank. MEDITRON_ATTEMPT is the attempt's number, 0 for a task run by hand.
    """
    run = rundir.RunDir(run_dir.resolve())
    task = specs.load_task(run, stage, index)
    if task.ranks == 1:
        rank, world, local = 0, 1, 0
    else:
        by_srun = task.launcher == "srun" and "SLURM_PROCID" in environ
        names = OF_SRUN if by_srun else OF_LAUNCHER
        rank, world, local = (
            int(environ.get(name, default)) for name, default in zip(names, "010", strict=True)
        )
    attempt = int(environ.get("MEDITRON_ATTEMPT", "0"))
    return Context(run, task, attempt, rank, world, local, StopFlag())
