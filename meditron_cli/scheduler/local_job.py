"""The background process of an attempt on this machine:
``python -m meditron_cli.scheduler.local_job JOB_FILE``.

It waits for the jobs it depends on, runs a few tasks at a time through submitit's local executor,
and exits. It leads a session of its own, so that all its descendants can be found and ended.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.checkpoints import manifest
from jobs.contract import done_markers, specs
from jobs.contract.events import append_event
from jobs.contract.files import read_json
from jobs.contract.job import LOCAL_JOB
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import ExportSpec, early_step
from jobs.runtime.log import log
from jobs.runtime.storage import STORAGE_SECONDS, retry_until_written
from jobs.slurm import payload
from jobs.supervision.ranks import local_ranks
from meditron_cli.scheduler.base import JobState
from meditron_cli.scheduler.local_sessions import (
    POLL_SECONDS,
    PREFIX,
    members,
    send_signal,
    state_of,
)

REPEAT_SECONDS = 0.5
"""Between two stop requests, of which one that comes while a program starts up is lost."""


class Runner:
    """The background process of one attempt of a stage."""

    def __init__(self, path: Path) -> None:
        self.job = read_json(path)
        self.stage: str = self.job["stage"]
        self.run = RunDir(path.parents[4])
        self.folder = path.parent
        self.stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.checkpoints = dict(self.early_checkpoints())

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def early_checkpoints(self) -> Iterator[tuple[int, Path]]:
        """Yield the exports that need one checkpoint alone, each with the file that completes it.

        An evaluation waits: it would share this machine's devices with the training.
        """
        for index in self.job["indices"]:
            task = specs.read_task(self.run, self.stage, index)
            if task and isinstance(task.spec, ExportSpec):
                step = early_step(task.spec)
                if step is not None:
                    folder = self.run.path(task.spec.checkpoint_dir) / manifest.name(step)
                    yield index, folder / manifest.RECORD

    def main(self) -> int:
        """Run the tasks; return 0 when all have run, 1 after a stop request or without inputs.

        An export of one checkpoint starts as soon as it is saved.
        """
        try:
            return self.wait_and_work()
        finally:
            own = os.getpid()
            send_signal([pid for pid in members([own]) if pid != own], signal.SIGKILL)

    def wait_and_work(self) -> int:
        """Wait for the jobs before, and meanwhile run the tasks that can start."""
        left = list(self.job["indices"])
        wait = True
        while wait and left:
            wait = any(state_of(name)[1] is JobState.ACTIVE for name in self.job["after_jobs"])
            if early := self.startable(left):
                left = [index for index in left if index not in early]
                if code := self.work(early):
                    return code
            elif self.stopping and wait:
                return 1
            elif wait:
                time.sleep(POLL_SECONDS)
        missing = [name for name in self.job["after_stages"] if not is_finished(self.run, name)]
        if left and missing:
            self.record(lambda: append_event(self.run, "blocked", stage=self.stage, after=missing))
            log(f"{self.stage} was not started: {missing[0]} did not finish")
            return 1
        return self.work(left) if left else 0

    def startable(self, left: list[int]) -> list[int]:
        """Return the tasks whose checkpoint is saved; none where the storage does not answer."""
        try:
            return [
                index
                for index in left
                if index in self.checkpoints and self.checkpoints[index].exists()
            ]
        except OSError:
            return []

    def work(self, indices: list[int]) -> int:
        """Run tasks, ``parallel`` at a time; on a stop request stop those that run."""
        import submitit

        os.environ[LOCAL_JOB] = PREFIX + local_ranks.process_name(os.getpid())
        executor = submitit.LocalExecutor(self.folder)
        executor.update_parameters(
            timeout_min=self.job["time_minutes"],
            signal_delay_s=self.job["lead_seconds"],
            gpus_per_node=self.job["gpus"],
            stderr_to_stdout=True,
        )
        attempt = str(self.job["attempt"])
        waiting = [str(index) for index in indices]
        unstarted: list[str] = []
        running: list[Any] = []

        def start() -> None:
            arguments = (str(self.run.root), self.stage, waiting[0], attempt)
            running.append(executor.submit(payload.TASK, *arguments))

        while (running or waiting) and not self.stopping:
            while waiting and len(running) < self.job["parallel"]:
                if self.record(start):
                    waiting.pop(0)
                else:
                    unstarted, waiting = waiting, []
            time.sleep(POLL_SECONDS)
            running = [job for job in running if not job.done()]
        self.stop(running)
        return 1 if waiting or unstarted or self.stopping else 0

    def record(self, write: Callable[[], object]) -> bool:
        """Write files once the storage takes them; return whether it did before a stop request, and
        within ``STORAGE_SECONDS``.
        """
        try:
            retry_until_written(
                write, self.folder, STORAGE_SECONDS, self.stage, lambda: self.stopping
            )
        except OSError:
            return False
        return True

    def stop(self, running: list[Any]) -> None:
        """Pass the stop request to each task's controller, whose pid is its job id, and wait."""
        while running := [job for job in running if not job.done()]:
            for job in running:
                os.kill(int(job.job_id), signal.SIGTERM)
            time.sleep(REPEAT_SECONDS)


def is_finished(run: RunDir, stage: str) -> bool:
    """Return whether every task of a stage is done."""
    indices = read_json(run.plan)["stages"][stage]["tasks"]
    tasks = {i: specs.load_task(run, stage, i) for i in indices}
    return bool(tasks) and all(
        done_markers.is_done(run, stage, index, specs.digest(task.spec))
        for index, task in tasks.items()
    )


if __name__ == "__main__":
    sys.exit(Runner(Path(sys.argv[1])).main())
