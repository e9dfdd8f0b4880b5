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
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from jobs.contract import done_markers, specs
from jobs.contract.events import append_event
from jobs.contract.files import read_json
from jobs.contract.job import LOCAL_JOB
from jobs.contract.rundir import RunDir
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

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def main(self) -> int:
        """Run the tasks; return 0 when all have run, 1 after a stop request or without inputs."""
        while any(state_of(name)[1] is JobState.ACTIVE for name in self.job["after_jobs"]):
            if self.stopping:
                return 1
            time.sleep(POLL_SECONDS)
        missing = [name for name in self.job["after_stages"] if not is_finished(self.run, name)]
        if missing:
            self.record(lambda: append_event(self.run, "blocked", stage=self.stage, after=missing))
            log(f"{self.stage} was not started: {missing[0]} did not finish")
            return 1
        try:
            return self.work()
        finally:
            own = os.getpid()
            send_signal([pid for pid in members([own]) if pid != own], signal.SIGKILL)

    def work(self) -> int:
        """Run the tasks, ``parallel`` at a time; on a stop request stop those that run."""
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
        waiting = [str(index) for index in self.job["indices"]]
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
    indices = [int(path.stem) for path in (run.stage(stage) / "spec").glob("*.json")]
    tasks = {i: specs.load_task(run, stage, i) for i in indices}
    return bool(tasks) and all(
        done_markers.is_done(run, stage, index, specs.digest(task.spec))
        for index, task in tasks.items()
    )


if __name__ == "__main__":
    sys.exit(Runner(Path(sys.argv[1])).main())
